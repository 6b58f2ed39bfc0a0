// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "commands.h"
#include "exec.h"
#include "json.h"
#include "reply.h"
#include "stream.h"

#define MAX_PROCESSES	128

struct process {
	struct process *next;
	pid_t pid;		/* leads a session and group of its own */
	bool reaped;
	int status;		/* as wait() gives it */
	struct capture out, err;
	struct feed in;
};

static struct process *processes;	/* oldest first */
static size_t nr_processes;

/* Over means: reaped, and nobody holds its pipes open any more. */
static bool is_over(const struct process *process)
{
	return process->reaped && capture_done(&process->out) &&
	       capture_done(&process->err);
}

static void forget(struct process *process)
{
	struct process **link = &processes;

	while (*link != process)
		link = &(*link)->next;
	*link = process->next;
	nr_processes--;
	capture_close(&process->out);
	capture_close(&process->err);
	feed_close(&process->in);
	free(process);
}

/*
 * A client that went away never asks for its results: when the table is full,
 * the oldest of them make room.
 */
static bool make_room(void)
{
	struct process *process = processes;

	if (nr_processes < MAX_PROCESSES)
		return true;
	while (process && !is_over(process))
		process = process->next;
	if (process)
		forget(process);
	return process != NULL;
}

/* A PID is used again some day: the result nobody asked for gives way. */
static void forget_namesake(const struct process *process)
{
	struct process *other = processes;

	while (other && (other == process || other->pid != process->pid))
		other = other->next;
	if (other)
		forget(other);
}

static void remember(struct process *process)
{
	struct process **link = &processes;

	while (*link)
		link = &(*link)->next;
	*link = process;
	nr_processes++;
}

void exec_reap(void)
{
	pid_t pid;
	int status;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		struct process *p = processes;

		while (p && (p->pid != pid || p->reaped))
			p = p->next;
		if (p) {
			p->reaped = true;
			p->status = status;
		}
	}
}

/* An array of strings as execve() wants it; first may be NULL. */
static char **string_vector(const struct json *array, const char *first)
{
	size_t count = 0;
	char **vector;

	vector = calloc((array ? array->length : 0) + 2, sizeof(*vector));
	if (!vector) {
		reply_error("guest-exec: out of memory");
		return NULL;
	}
	if (first)
		vector[count++] = (char *)first;
	for (struct json *item = array ? array->child : NULL; item;
	     item = item->next) {
		if (item->type != JSON_STRING) {
			reply_error("guest-exec: arg and env hold strings only");
			free(vector);
			return NULL;
		}
		vector[count++] = item->string;
	}
	return vector;
}

/* What the child starts with besides its descriptors: a session, no signals. */
static void set_attributes(posix_spawnattr_t *attributes)
{
	sigset_t none, all;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_init(attributes);
	posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSID |
				 POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(attributes, &none);
	posix_spawnattr_setsigdefault(attributes, &all);
}

/* Start the program; `ends` become its descriptors 0-2. Returns an errno. */
static int spawn(pid_t *pid, char **argv, char **env, const int ends[3])
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	int error;

	posix_spawn_file_actions_init(&actions);
	for (int i = 0; i < 3; i++) {
		if (ends[i] < 0)
			posix_spawn_file_actions_addopen(&actions, i,
							 "/dev/null", O_RDWR, 0);
		else
			posix_spawn_file_actions_adddup2(&actions, ends[i], i);
	}
	set_attributes(&attributes);
	error = posix_spawnp(pid, argv[0], &actions, &attributes, argv,
			     env ? env : environ);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	return error;
}

/* Make the pipes that are asked for; takes over `input`. */
static int open_streams(struct process *process, int ends[3], bool capture,
			unsigned char *input, size_t length)
{
	process->in.watch.fd = -1;
	process->out.watch.fd = process->err.watch.fd = -1;
	if (input) {
		ends[0] = feed_open(&process->in, input, length);
		if (ends[0] < 0)
			return -1;
	}
	if (!capture)
		return 0;
	ends[1] = capture_open(&process->out);
	if (ends[1] < 0)
		return -1;
	ends[2] = capture_open(&process->err);
	return ends[2] < 0 ? -1 : 0;
}

static void start(const struct json *arguments, char **argv, char **env,
		  unsigned char *input, size_t length)
{
	struct process *process = calloc(1, sizeof(*process));
	int ends[3] = { -1, -1, -1 };
	int error = 0;

	if (!process) {
		free(input);
		reply_error("guest-exec: out of memory");
		return;
	}
	remember(process);
	if (open_streams(process, ends,
			 argument_boolean(arguments, "capture-output", false),
			 input, length) < 0)
		error = errno;
	if (!error)
		error = spawn(&process->pid, argv, env, ends);
	for (int i = 0; i < 3; i++)
		if (ends[i] >= 0)
			close(ends[i]);
	if (error) {
		reply_error("cannot run %s: %s", argv[0], strerror(error));
		forget(process);
		return;
	}
	forget_namesake(process);
	reply_raw("{\"pid\": ");
	reply_integer(process->pid);
	reply_raw("}");
}

void guest_exec(const struct json *arguments)
{
	const struct json *variables = json_member(arguments, "env");
	unsigned char *input;
	size_t length;
	char **argv, **env = NULL;

	if (!make_room()) {
		reply_error("guest-exec: %d commands are running already",
			    MAX_PROCESSES);
		return;
	}
	argv = string_vector(json_member(arguments, "arg"),
			     argument_string(arguments, "path", ""));
	if (argv && variables)
		env = string_vector(variables, NULL);
	if (argv && (env || !variables)) {
		input = argument_bytes(arguments, "input-data", &length);
		if (!reply_is_error())
			start(arguments, argv, env, input, length);
	}
	free(argv);
	free(env);
}

static void reply_stream(struct capture *capture, const char *data_name,
			 const char *truncated_name)
{
	size_t length = capture->length;

	if (length) {
		reply_raw(data_name);
		reply_bytes(capture_take(capture), length);
	}
	if (capture->truncated) {
		reply_raw(truncated_name);
		reply_boolean(true);
	}
}

void guest_exec_status(const struct json *arguments)
{
	int64_t pid = argument_integer(arguments, "pid", 0);
	struct process *process = processes;

	while (process && process->pid != pid)
		process = process->next;
	if (!process) {
		reply_error("guest-exec-status: no command has PID %lld",
			    (long long)pid);
		return;
	}
	if (!is_over(process)) {
		reply_raw("{\"exited\": false}");
		return;
	}
	reply_raw("{\"exited\": true");
	if (WIFSIGNALED(process->status)) {
		reply_raw(", \"signal\": ");
		reply_integer(WTERMSIG(process->status));
	} else {
		reply_raw(", \"exitcode\": ");
		reply_integer(WEXITSTATUS(process->status));
	}
	reply_stream(&process->out, ", \"out-data\": ", ", \"out-truncated\": ");
	reply_stream(&process->err, ", \"err-data\": ", ", \"err-truncated\": ");
	reply_raw("}");
	forget(process);
}
