/* SPDX-License-Identifier: GPL-2.0-only */
/* Copying packets from and to the link, as both ends of a network card do it. */
#ifndef _LINK_SKB_H
#define _LINK_SKB_H

#include <linux/skbuff.h>
#include <net/sock.h>
#include "pvbus.h"

/* A packet's bytes, piece by piece: between skb_prepare_seq_read() and _abort_. */
struct link_skb_source {
	struct skb_seq_state seq;
	const u8 *data;
	u32 left;		/* at data */
	u32 done;
};

/* Copy the next bytes, or only pass over them when there is nowhere to. */
static inline void link_skb_read(struct link_skb_source *src, u8 *to, u32 len)
{
	while (len) {
		u32 n;

		if (!src->left)
			src->left = skb_seq_read(src->done, &src->data,
						 &src->seq);
		n = min(len, src->left);
		if (WARN_ON_ONCE(!n))
			return;
		if (to) {
			link_copy(to, src->data, n);
			to += n;
		}
		src->data += n;
		src->left -= n;
		src->done += n;
		len -= n;
	}
}

/* Append bytes of the link to a packet, in pages; false: there is no room. */
static inline bool link_skb_append(struct page_frag *frag, struct sk_buff *skb,
				   const u8 *data, u32 len)
{
	while (len) {
		int nr = skb_shinfo(skb)->nr_frags;
		u32 n;

		if (!skb_page_frag_refill(min_t(u32, len, PAGE_SIZE), frag,
					  GFP_ATOMIC | __GFP_NOWARN))
			return false;
		n = min(len, frag->size - frag->offset);
		if (skb_can_coalesce(skb, nr, frag->page, frag->offset)) {
			skb_coalesce_rx_frag(skb, nr - 1, n, n);
		} else {
			if (nr == MAX_SKB_FRAGS)
				return false;
			get_page(frag->page);
			skb_add_rx_frag(skb, nr, frag->page, frag->offset, n,
					n);
		}
		link_copy(page_address(frag->page) + frag->offset, data, n);
		frag->offset += n;
		data += n;
		len -= n;
	}
	return true;
}

#endif /* _LINK_SKB_H */
