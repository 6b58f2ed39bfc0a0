// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who is at the other end of a link. What the link's memory says about that the
 * other end can have written: it is a claim. The toolstack's word counts. It plugs
 * the first link, the one to Domain 0, into a slot that no other gets. About each
 * of the others it says in XenStore, in link/SLOT, at which end of it this domain
 * is and which domain is at the other: "grantee 7". Only Domain 0 can write that
 * node, and it is there only while the link is.
 */
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/string.h>
#include "bus.h"

static const char *const end_names[] = {
	[LINK_END_GRANTER] = "granter",
	[LINK_END_GRANTEE] = "grantee",
};

/* Slots are those of the only bus that links are plugged into. */
static bool has_slot(const struct bus_link *bl)
{
	struct pci_bus *bus = bl->pdev->bus;

	return !pci_domain_nr(bus) && !bus->number &&
	       !PCI_FUNC(bl->pdev->devfn);
}

int identity_check_slot(const struct bus_link *bl)
{
	bool first = PCI_SLOT(bl->pdev->devfn) == LINK_FIRST_SLOT;

	if (!has_slot(bl)) {
		dev_err(bl->link.dev, "a link where the toolstack plugs none in\n");
		return -EINVAL;
	}
	if (first != link_has_store(bl)) {
		dev_err(bl->link.dev, "start info: a store is on the link in slot %02x, and on no other\n",
			LINK_FIRST_SLOT);
		return -EINVAL;
	}
	if (first && bl->link.remote_domid) {
		dev_err(bl->link.dev, "link info: the first link is to domain 0, not %u\n",
			bl->link.remote_domid);
		return -EINVAL;
	}
	return 0;
}

void link_say(const struct bus_link *bl)
{
	dev_info(bl->link.dev, "link to domain %u, which %s: %u frames, %u vectors\n",
		 bl->link.remote_domid,
		 bl->me == LINK_END_GRANTER ? "maps" : "grants",
		 bl->link.nr_frames, bl->events.nr_vectors);
}

/* What the toolstack says about a link, or an ERR_PTR. */
static char *read_word(struct bus_link *bl)
{
	char node[sizeof("1f")], *word;

	snprintf(node, sizeof(node), "%02x", PCI_SLOT(bl->pdev->devfn));
	word = pvbus_read(&bl->link, PVBUS_NIL, "link", node, NULL);
	if (IS_ERR(word) && PTR_ERR(word) != -ENOENT)
		dev_warn(bl->link.dev, "cannot read link/%s: error %ld\n",
			 node, PTR_ERR(word));
	return word;
}

/* Compare the claim with the toolstack's word, if it is there yet. */
static enum link_identity identify(struct bus_link *bl)
{
	enum link_identity identity = LINK_KNOWN;
	char claim[sizeof("granter 65535")], *word;

	snprintf(claim, sizeof(claim), "%s %u", end_names[bl->me],
		 bl->link.remote_domid);
	word = read_word(bl);
	/* A watch tells when it comes, or the store is back. */
	if (IS_ERR(word))
		return LINK_UNKNOWN;
	if (strcmp(word, claim)) {
		dev_err(bl->link.dev, "refused: its memory says we are \"%s\", the toolstack \"%s\"\n",
			claim, word);
		identity = LINK_REFUSED;
	}
	kfree(word);
	return identity;
}

/*
 * A link of this store that has not been looked at in this round, @round, and is
 * so far @identity. It is there until the work that calls this has ended, see
 * find_link().
 */
static struct bus_link *next_link(struct bus_link *first, u32 round,
				  enum link_identity identity)
{
	struct bus_link *bl, *found = NULL;

	mutex_lock(&links_lock);
	list_for_each_entry(bl, &links, list)
		if (bl->store == first->store && bl->identity == identity &&
		    bl->round != round) {
			bl->round = round;
			found = bl;
			break;
		}
	mutex_unlock(&links_lock);
	return found;
}

bool identify_links(struct bus_link *first)
{
	u32 round = ++first->round;
	struct bus_link *bl;
	bool any = false;

	while ((bl = next_link(first, round, LINK_UNKNOWN))) {
		bl->identity = identify(bl);
		if (bl->identity != LINK_KNOWN)
			continue;
		link_say(bl);
		any = true;
	}
	return any;
}

/*
 * This domain has been saved and restored, and whoever serves it over this link may
 * be there anew under another number. Nobody else gets a link that is plugged in.
 */
static void renumber(struct bus_link *bl)
{
	char *word = read_word(bl);
	u16 domid;

	if (IS_ERR(word))
		return;
	if (sscanf(word, "granter %hu", &domid) == 1 &&
	    domid != bl->link.remote_domid) {
		WRITE_ONCE(bl->link.remote_domid, domid);
		link_say(bl);
	}
	kfree(word);
}

void renumber_links(struct bus_link *first)
{
	u32 round = ++first->round;
	struct bus_link *bl;

	while ((bl = next_link(first, round, LINK_KNOWN)))
		if (bl != first && bl->me == LINK_END_GRANTER)
			renumber(bl);
}
