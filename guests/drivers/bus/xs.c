// SPDX-License-Identifier: GPL-2.0-only
/* XenStore's operations over the messages of store.c. */
#include <linux/export.h>
#include <linux/kernel.h>
#include <linux/slab.h>
#include <linux/string.h>
#include "bus.h"

static struct store *store_of(struct link *link)
{
	return to_bus_link(link)->store;
}

/* A request whose first string is a path; @value follows without a NUL. */
static char *path_request(struct link *link, enum xsd_sockmsg_type type,
			  struct pvbus_transaction t, const char *dir,
			  const char *node, const char *value, u32 *len)
{
	struct store_part parts[2];
	char *path, *body;

	path = kasprintf(GFP_KERNEL, *node ? "%s/%s" : "%s%s", dir, node);
	if (!path)
		return ERR_PTR(-ENOMEM);
	parts[0].data = path;
	parts[0].len = strlen(path) + 1;
	parts[1].data = value;
	parts[1].len = value ? strlen(value) : 0;
	body = store_request(store_of(link), type, t, parts, value ? 2 : 1, len);
	kfree(path);
	return body;
}

/* The errno of a request whose answer says nothing else. */
static int finish(char *body)
{
	if (IS_ERR(body))
		return PTR_ERR(body);
	kfree(body);
	return 0;
}

char *pvbus_read(struct link *link, struct pvbus_transaction t,
		 const char *dir, const char *node, unsigned int *len)
{
	u32 length;
	char *body = path_request(link, XS_READ, t, dir, node, NULL, &length);

	if (!IS_ERR(body) && len)
		*len = length;
	return body;
}
EXPORT_SYMBOL_GPL(pvbus_read);

int pvbus_write(struct link *link, struct pvbus_transaction t,
		const char *dir, const char *node, const char *value)
{
	u32 len;

	return finish(path_request(link, XS_WRITE, t, dir, node, value, &len));
}
EXPORT_SYMBOL_GPL(pvbus_write);

int pvbus_rm(struct link *link, struct pvbus_transaction t,
	     const char *dir, const char *node)
{
	u32 len;

	return finish(path_request(link, XS_RM, t, dir, node, NULL, &len));
}
EXPORT_SYMBOL_GPL(pvbus_rm);

bool pvbus_exists(struct link *link, struct pvbus_transaction t,
		  const char *dir, const char *node)
{
	return !finish(pvbus_read(link, t, dir, node, NULL));
}
EXPORT_SYMBOL_GPL(pvbus_exists);

int pvbus_directory(struct link *link, struct pvbus_transaction t,
		    const char *dir, const char *node, char ***names)
{
	u32 len, pos;
	int nr = 0, i;
	char *body, *strings;

	body = path_request(link, XS_DIRECTORY, t, dir, node, NULL, &len);
	if (IS_ERR(body))
		return PTR_ERR(body);
	for (pos = 0; pos < len; pos += strlen(body + pos) + 1)
		nr++;
	*names = kzalloc(nr * sizeof(**names) + len + 1, GFP_KERNEL);
	if (!*names) {
		kfree(body);
		return -ENOMEM;
	}
	strings = (char *)&(*names)[nr];
	memcpy(strings, body, len);
	kfree(body);
	for (i = 0, pos = 0; i < nr; i++, pos += strlen(strings + pos) + 1)
		(*names)[i] = strings + pos;
	return nr;
}
EXPORT_SYMBOL_GPL(pvbus_directory);

int pvbus_scanf(struct link *link, struct pvbus_transaction t,
		const char *dir, const char *node, const char *fmt, ...)
{
	char *value = pvbus_read(link, t, dir, node, NULL);
	va_list ap;
	int n;

	if (IS_ERR(value))
		return PTR_ERR(value);
	va_start(ap, fmt);
	n = vsscanf(value, fmt, ap);
	va_end(ap);
	kfree(value);
	return n > 0 ? n : -ERANGE;
}
EXPORT_SYMBOL_GPL(pvbus_scanf);

int pvbus_printf(struct link *link, struct pvbus_transaction t,
		 const char *dir, const char *node, const char *fmt, ...)
{
	va_list ap;
	char *value;
	int err;

	va_start(ap, fmt);
	value = kvasprintf(GFP_KERNEL, fmt, ap);
	va_end(ap);
	if (!value)
		return -ENOMEM;
	err = pvbus_write(link, t, dir, node, value);
	kfree(value);
	return err;
}
EXPORT_SYMBOL_GPL(pvbus_printf);

unsigned int pvbus_read_unsigned(struct link *link, const char *dir,
				 const char *node, unsigned int fallback)
{
	char *value = pvbus_read(link, PVBUS_NIL, dir, node, NULL);
	unsigned int number;

	if (IS_ERR(value))
		return fallback;
	if (kstrtouint(value, 10, &number))
		number = fallback;
	kfree(value);
	return number;
}
EXPORT_SYMBOL_GPL(pvbus_read_unsigned);

static int start_transaction(struct store *store, struct pvbus_transaction *t)
{
	const struct store_part nothing = { "", 1 };
	char *body;
	u32 len;
	int err;

	body = store_body(store_exchange(store, XS_TRANSACTION_START, PVBUS_NIL,
					 &nothing, 1, &t->generation), &len);
	if (IS_ERR(body))
		return PTR_ERR(body);
	err = kstrtou32(body, 10, &t->id);
	kfree(body);
	return err || !t->id ? -EIO : 0;
}

int pvbus_transaction_start(struct link *link, struct pvbus_transaction *t)
{
	struct store *store = store_of(link);
	int err;

	down(&store->transactions);
	err = start_transaction(store, t);
	if (err)
		up(&store->transactions);
	return err;
}
EXPORT_SYMBOL_GPL(pvbus_transaction_start);

int pvbus_transaction_end(struct link *link, struct pvbus_transaction t,
			  bool abort)
{
	const struct store_part verdict = { abort ? "F" : "T", 2 };
	struct store *store = store_of(link);
	u32 len;
	int err;

	err = finish(store_request(store, XS_TRANSACTION_END, t, &verdict, 1,
				   &len));
	up(&store->transactions);
	return err;
}
EXPORT_SYMBOL_GPL(pvbus_transaction_end);
