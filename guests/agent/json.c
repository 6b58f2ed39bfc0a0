// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "json_parser.h"

static struct json pool[JSON_MAX_NODES];
static size_t used;

static struct json *parse_value(struct parser *p, int depth);

static struct json *new_node(struct parser *p, enum json_type type)
{
	struct json *node;

	if (used == JSON_MAX_NODES)
		return parser_fail(p, "too many values");
	node = &pool[used++];
	memset(node, 0, sizeof(*node));
	node->type = type;
	return node;
}

static void skip_space(struct parser *p)
{
	while (p->at < p->end && strchr(" \t\r\n", *p->at) && *p->at)
		p->at++;
}

static bool accept(struct parser *p, char c)
{
	skip_space(p);
	if (p->at == p->end || *p->at != c)
		return false;
	p->at++;
	return true;
}

static size_t skip_digits(struct parser *p)
{
	char *start = p->at;

	while (*p->at >= '0' && *p->at <= '9')
		p->at++;
	return p->at - start;
}

static struct json *parse_number(struct parser *p)
{
	struct json *node = new_node(p, JSON_INTEGER);
	char *start = p->at;
	size_t count;
	char *first;

	if (!node)
		return NULL;
	if (*p->at == '-')
		p->at++;
	first = p->at;
	count = skip_digits(p);
	if (!count || (count > 1 && *first == '0'))
		return parser_fail(p, "bad number");
	errno = 0;
	node->integer = strtoll(start, NULL, 10);
	if (errno)
		node->type = JSON_REAL;

	if (*p->at == '.') {
		p->at++;
		node->type = JSON_REAL;
		if (!skip_digits(p))
			return parser_fail(p, "bad number");
	}
	if (*p->at == 'e' || *p->at == 'E') {
		p->at++;
		node->type = JSON_REAL;
		if (*p->at == '+' || *p->at == '-')
			p->at++;
		if (!skip_digits(p))
			return parser_fail(p, "bad number");
	}
	return node;
}

static struct json *parse_word(struct parser *p)
{
	static const struct {
		const char *word;
		enum json_type type;
		bool boolean;
	} words[] = {
		{ "null", JSON_NULL, false },
		{ "true", JSON_BOOLEAN, true },
		{ "false", JSON_BOOLEAN, false },
	};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		size_t length = strlen(words[i].word);
		struct json *node;

		if ((size_t)(p->end - p->at) < length ||
		    memcmp(p->at, words[i].word, length))
			continue;
		p->at += length;
		node = new_node(p, words[i].type);
		if (node)
			node->boolean = words[i].boolean;
		return node;
	}
	return parser_fail(p, "a value was expected");
}

static struct json *parse_member(struct parser *p, struct json *object,
				 int depth)
{
	struct json *value;
	size_t length;
	char *name;

	if (object->length == JSON_MAX_MEMBERS)
		return parser_fail(p, "too many members in an object");
	if (!accept(p, '"'))
		return parser_fail(p, "a member's name was expected");
	name = parser_string(p, &length);
	if (!name)
		return NULL;
	if (json_member(object, name))
		return parser_fail(p, "a member is given twice");
	if (!accept(p, ':'))
		return parser_fail(p, "a colon was expected");
	value = parse_value(p, depth);
	if (value)
		value->name = name;
	return value;
}

static struct json *parse_children(struct parser *p, enum json_type type,
				   int depth)
{
	char close = type == JSON_OBJECT ? '}' : ']';
	struct json *parent = new_node(p, type);
	struct json **link;

	if (!parent)
		return NULL;
	if (depth == JSON_MAX_DEPTH)
		return parser_fail(p, "nested too deeply");
	if (accept(p, close))
		return parent;
	link = &parent->child;
	do {
		struct json *child;

		child = type == JSON_OBJECT ?
			parse_member(p, parent, depth + 1) :
			parse_value(p, depth + 1);
		if (!child)
			return NULL;
		*link = child;
		link = &child->next;
		parent->length++;
	} while (accept(p, ','));
	if (!accept(p, close))
		return parser_fail(p, "a comma or the closing bracket was expected");
	return parent;
}

static struct json *parse_value(struct parser *p, int depth)
{
	struct json *node;

	if (accept(p, '{'))
		return parse_children(p, JSON_OBJECT, depth);
	if (accept(p, '['))
		return parse_children(p, JSON_ARRAY, depth);
	if (accept(p, '"')) {
		node = new_node(p, JSON_STRING);
		if (!node)
			return NULL;
		node->string = parser_string(p, &node->length);
		return node->string ? node : NULL;
	}
	if (*p->at == '-' || (*p->at >= '0' && *p->at <= '9'))
		return parse_number(p);
	return parse_word(p);
}

struct json *json_parse(char *text, size_t length, const char **problem)
{
	struct parser p = { .at = text, .end = text + length };
	struct json *root;

	used = 0;
	*p.end = 0;
	root = parse_value(&p, 0);
	if (root) {
		skip_space(&p);
		if (p.at != p.end)
			root = parser_fail(&p, "something follows the value");
	}
	*problem = p.problem;
	return root;
}

const struct json *json_member(const struct json *object, const char *name)
{
	for (const struct json *m = object->child; m; m = m->next)
		if (!strcmp(m->name, name))
			return m;
	return NULL;
}

const char *json_type_name(enum json_type type)
{
	static const char *const names[] = {
		"null", "a boolean", "an integer", "a number", "a string",
		"an array", "an object",
	};

	return names[type];
}
