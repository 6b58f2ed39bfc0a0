// SPDX-License-Identifier: GPL-2.0-only
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base64.h"
#include "commands.h"
#include "json.h"
#include "reply.h"

#define MAX_PARAMETERS	5
#define VERSION		"harness-agent 1"

enum need { REQUIRED = 1, OPTIONAL };

struct parameter {
	const char *name;
	enum need need;
	enum json_type type;
	enum json_type other_type;	/* also accepted; JSON_NULL: none */
};

struct command {
	const char *name;
	void (*run)(const struct json *arguments);
	bool silent;			/* no answer on success */
	struct parameter parameters[MAX_PARAMETERS + 1];
};

static void guest_sync(const struct json *arguments)
{
	reply_integer(argument_integer(arguments, "id", 0));
}

static void guest_sync_delimited(const struct json *arguments)
{
	reply_delimit();
	guest_sync(arguments);
}

static void guest_ping(const struct json *arguments)
{
	(void)arguments;
	reply_raw("{}");
}

static void guest_get_time(const struct json *arguments)
{
	struct timespec now;

	(void)arguments;
	clock_gettime(CLOCK_REALTIME, &now);
	reply_integer(now.tv_sec * INT64_C(1000000000) + now.tv_nsec);
}

static void guest_info(const struct json *arguments);

static const struct command commands[] = {
	{ "guest-sync", guest_sync, false,
	  { { "id", REQUIRED, JSON_INTEGER, JSON_NULL } } },
	{ "guest-sync-delimited", guest_sync_delimited, false,
	  { { "id", REQUIRED, JSON_INTEGER, JSON_NULL } } },
	{ "guest-ping", guest_ping, false, { } },
	{ "guest-info", guest_info, false, { } },
	{ "guest-get-time", guest_get_time, false, { } },
	{ "guest-exec", guest_exec, false,
	  { { "path", REQUIRED, JSON_STRING, JSON_NULL },
	    { "arg", OPTIONAL, JSON_ARRAY, JSON_NULL },
	    { "env", OPTIONAL, JSON_ARRAY, JSON_NULL },
	    { "input-data", OPTIONAL, JSON_STRING, JSON_NULL },
	    { "capture-output", OPTIONAL, JSON_BOOLEAN, JSON_NULL } } },
	{ "guest-exec-status", guest_exec_status, false,
	  { { "pid", REQUIRED, JSON_INTEGER, JSON_NULL } } },
	{ "guest-file-open", guest_file_open, false,
	  { { "path", REQUIRED, JSON_STRING, JSON_NULL },
	    { "mode", OPTIONAL, JSON_STRING, JSON_NULL } } },
	{ "guest-file-close", guest_file_close, false,
	  { { "handle", REQUIRED, JSON_INTEGER, JSON_NULL } } },
	{ "guest-file-read", guest_file_read, false,
	  { { "handle", REQUIRED, JSON_INTEGER, JSON_NULL },
	    { "count", OPTIONAL, JSON_INTEGER, JSON_NULL } } },
	{ "guest-file-write", guest_file_write, false,
	  { { "handle", REQUIRED, JSON_INTEGER, JSON_NULL },
	    { "buf-b64", REQUIRED, JSON_STRING, JSON_NULL },
	    { "count", OPTIONAL, JSON_INTEGER, JSON_NULL } } },
	{ "guest-file-seek", guest_file_seek, false,
	  { { "handle", REQUIRED, JSON_INTEGER, JSON_NULL },
	    { "offset", REQUIRED, JSON_INTEGER, JSON_NULL },
	    { "whence", REQUIRED, JSON_INTEGER, JSON_STRING } } },
	{ "guest-file-flush", guest_file_flush, false,
	  { { "handle", REQUIRED, JSON_INTEGER, JSON_NULL } } },
	{ "guest-network-get-interfaces", guest_network_get_interfaces, false,
	  { } },
	{ "guest-shutdown", guest_shutdown, true,
	  { { "mode", OPTIONAL, JSON_STRING, JSON_NULL } } },
};

#define NR_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void guest_info(const struct json *arguments)
{
	(void)arguments;
	reply_raw("{\"version\": ");
	reply_string(VERSION);
	reply_raw(", \"supported_commands\": [");
	for (size_t i = 0; i < NR_COMMANDS; i++) {
		reply_raw(i ? ", {\"name\": " : "{\"name\": ");
		reply_string(commands[i].name);
		reply_raw(", \"enabled\": true, \"success-response\": ");
		reply_boolean(!commands[i].silent);
		reply_raw("}");
	}
	reply_raw("]}");
}

const char *argument_string(const struct json *arguments, const char *name,
			    const char *otherwise)
{
	const struct json *found = json_member(arguments, name);

	return found ? found->string : otherwise;
}

int64_t argument_integer(const struct json *arguments, const char *name,
			 int64_t otherwise)
{
	const struct json *found = json_member(arguments, name);

	return found ? found->integer : otherwise;
}

bool argument_boolean(const struct json *arguments, const char *name,
		      bool otherwise)
{
	const struct json *found = json_member(arguments, name);

	return found ? found->boolean : otherwise;
}

unsigned char *argument_bytes(const struct json *arguments, const char *name,
			      size_t *length)
{
	const struct json *found = json_member(arguments, name);
	unsigned char *data;
	ssize_t decoded;

	*length = 0;
	if (!found)
		return NULL;
	data = malloc(found->length / 4 * 3 + 1);
	if (!data) {
		reply_error("%s: out of memory", name);
		return NULL;
	}
	decoded = base64_decode(found->string, found->length, data);
	if (decoded < 0) {
		reply_error("%s is not valid base64", name);
		free(data);
		return NULL;
	}
	*length = decoded;
	return data;
}

static bool check_argument(const struct command *command,
			   const struct json *argument)
{
	const struct parameter *p = command->parameters;

	while (p->name && strcmp(p->name, argument->name))
		p++;
	if (!p->name) {
		reply_error("%s has no argument %s", command->name,
			    argument->name);
		return false;
	}
	if (argument->type == p->type ||
	    (p->other_type != JSON_NULL && argument->type == p->other_type))
		return true;
	reply_error("%s: %s must be %s, not %s", command->name, p->name,
		    json_type_name(p->type), json_type_name(argument->type));
	return false;
}

static bool check_arguments(const struct command *command,
			    const struct json *arguments)
{
	const struct parameter *p;
	const struct json *argument;

	for (argument = arguments->child; argument; argument = argument->next)
		if (!check_argument(command, argument))
			return false;
	for (p = command->parameters; p->name; p++) {
		if (p->need == REQUIRED && !json_member(arguments, p->name)) {
			reply_error("%s needs the argument %s", command->name,
				    p->name);
			return false;
		}
	}
	return true;
}

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < NR_COMMANDS; i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	return NULL;
}

/* Carry out a parsed request; an error goes into the reply. */
static const struct command *execute(const struct json *request)
{
	static const struct json none = { .type = JSON_OBJECT };
	const struct json *name, *arguments, *member;
	const struct command *command;

	if (request->type != JSON_OBJECT) {
		reply_error("a request must be an object");
		return NULL;
	}
	for (member = request->child; member; member = member->next) {
		if (strcmp(member->name, "execute") &&
		    strcmp(member->name, "arguments")) {
			reply_error("a request has no member %s", member->name);
			return NULL;
		}
	}
	name = json_member(request, "execute");
	arguments = json_member(request, "arguments");
	if (!name || name->type != JSON_STRING) {
		reply_error("a request needs the string execute");
		return NULL;
	}
	if (arguments && arguments->type != JSON_OBJECT) {
		reply_error("arguments must be an object");
		return NULL;
	}
	command = find_command(name->string);
	if (!command)
		reply_unknown_command(name->string);
	else if (check_arguments(command, arguments ? arguments : &none))
		command->run(arguments ? arguments : &none);
	return command;
}

void commands_handle(char *text, size_t length)
{
	const struct command *command = NULL;
	const char *problem;
	struct json *request;

	text[length] = 0;
	if (strspn(text, " \t\r\n") == length) {
		reply_nothing();
		return;
	}
	reply_begin();
	request = json_parse(text, length, &problem);
	if (request)
		command = execute(request);
	else
		reply_error("not a JSON request: %s", problem);
	if (command && command->silent && !reply_is_error())
		reply_nothing();
	else
		reply_end();
}

void commands_reject(const char *problem)
{
	reply_error("%s", problem);
	reply_end();
}
