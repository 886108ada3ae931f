/* codec_host.c - what worker and agent host say to each other. No user byte is among it. */
#include "proto/codec_internal.h"

/* ---- worker -> agent host ---- */

static void check_host_command(struct check *check, const struct host_command *c)
{
	check_range(check, "host_command.kind", c->kind, HOST_SPAWN, HOST_STOP);
	if (c->kind == HOST_SPAWN)
		check_range(check, "spawn.kind", c->agent, AGENT_DEMO, AGENT_SCRIPT);
}

static void spawn_fill(Pinion__V1__Spawn *to, const struct host_command *c)
{
	pinion__v1__spawn__init(to);
	to->slot = c->slot;
	to->kind = c->agent;
	to->memory_bytes = c->memory_bytes;
	to->cpu_seconds = c->cpu_seconds;
	to->file_bytes = c->file_bytes;
	to->descriptors = c->descriptors;
}

enum err host_command_encode(const struct host_command *c, struct buf *out)
{
	struct check check = {0};
	Pinion__V1__HostCommand to = PINION__V1__HOST_COMMAND__INIT;
	Pinion__V1__Spawn spawn;
	Pinion__V1__Kill kill = PINION__V1__KILL__INIT;
	Pinion__V1__Tick tick = PINION__V1__TICK__INIT;
	Pinion__V1__Stop stop = PINION__V1__STOP__INIT;

	check_host_command(&check, c);
	if (check.err)
		return check.err;
	to.version = LINK_VERSION;
	switch (c->kind) {
	case HOST_SPAWN:
		spawn_fill(&spawn, c);
		to.spawn = &spawn;
		to.body_case = PINION__V1__HOST_COMMAND__BODY_SPAWN;
		break;
	case HOST_KILL:
		kill.slot = c->slot;
		to.kill = &kill;
		to.body_case = PINION__V1__HOST_COMMAND__BODY_KILL;
		break;
	case HOST_TICK:
		tick.lease_ms = c->lease_ms;
		to.tick = &tick;
		to.body_case = PINION__V1__HOST_COMMAND__BODY_TICK;
		break;
	case HOST_STOP:
		to.stop = &stop;
		to.body_case = PINION__V1__HOST_COMMAND__BODY_STOP;
		break;
	}
	return codec_pack(&to.base, HOST_MESSAGE_MAX, out);
}

static void spawn_view(struct host_command *out, const Pinion__V1__Spawn *from)
{
	out->kind = HOST_SPAWN;
	out->slot = from->slot;
	out->agent = from->kind;
	out->memory_bytes = from->memory_bytes;
	out->cpu_seconds = from->cpu_seconds;
	out->file_bytes = from->file_bytes;
	out->descriptors = from->descriptors;
}

static void host_command_view(struct host_command *out, const Pinion__V1__HostCommand *from)
{
	out->version = from->version;
	switch (from->body_case) {
	case PINION__V1__HOST_COMMAND__BODY_SPAWN:
		spawn_view(out, from->spawn);
		break;
	case PINION__V1__HOST_COMMAND__BODY_KILL:
		out->kind = HOST_KILL;
		out->slot = from->kill->slot;
		break;
	case PINION__V1__HOST_COMMAND__BODY_TICK:
		out->kind = HOST_TICK;
		out->lease_ms = from->tick->lease_ms;
		break;
	case PINION__V1__HOST_COMMAND__BODY_STOP:
		out->kind = HOST_STOP;
		break;
	default: /* kind 0: refused by the check */
		break;
	}
}

enum err host_command_decode(struct arena *arena, struct host_command *out, struct str in, struct err_info *info)
{
	struct check check = {.info = info, .decoding = true};
	const void *unpacked;
	enum err err;

	*out = (struct host_command){0};
	err = codec_unpack(&pinion__v1__host_command__descriptor, in, HOST_MESSAGE_MAX, arena, &unpacked, info);
	if (err)
		return err;
	host_command_view(out, unpacked);
	err = codec_version(out->version, info);
	if (err)
		return err;
	check_host_command(&check, out);
	return check.err;
}

/* ---- agent host -> worker ---- */

static void check_host_report(struct check *check, const struct host_report *r)
{
	check_range(check, "host_report.kind", r->kind, HOST_READY, HOST_EXITED);
	check_text(check, "exited.why", r->why, TEXT_MAX);
	check_range(check, "ready.properties", r->n_properties, 0, HOST_PROPERTIES_MAX);
	for (size_t i = 0; i < r->n_properties && !check->err; i++)
		check_name(check, "ready.properties", r->properties[i], false);
}

static enum err ready_pack(Pinion__V1__HostReport *to, const struct host_report *r, struct buf *out)
{
	Pinion__V1__Ready ready = PINION__V1__READY__INIT;
	field_t properties[HOST_PROPERTIES_MAX];

	for (size_t i = 0; i < r->n_properties; i++)
		properties[i] = field_of(r->properties[i]);
	ready.n_properties = r->n_properties;
	ready.properties = properties;
	to->ready = &ready;
	to->body_case = PINION__V1__HOST_REPORT__BODY_READY;
	return codec_pack(&to->base, HOST_MESSAGE_MAX, out);
}

static void exited_fill(Pinion__V1__Exited *to, const struct host_report *r)
{
	pinion__v1__exited__init(to);
	to->slot = r->slot;
	to->exit_status = r->exit_status;
	to->signal = r->signal;
	to->cpu_ms = r->cpu_ms;
	to->peak_rss_bytes = r->peak_rss_bytes;
	to->why = field_of(r->why);
}

enum err host_report_encode(const struct host_report *r, struct buf *out)
{
	struct check check = {0};
	Pinion__V1__HostReport to = PINION__V1__HOST_REPORT__INIT;
	Pinion__V1__Spawned spawned = PINION__V1__SPAWNED__INIT;
	Pinion__V1__Exited exited;

	check_host_report(&check, r);
	if (check.err)
		return check.err;
	to.version = LINK_VERSION;
	switch (r->kind) {
	case HOST_READY:
		return ready_pack(&to, r, out);
	case HOST_SPAWNED:
		spawned.slot = r->slot;
		spawned.pid = r->pid;
		to.spawned = &spawned;
		to.body_case = PINION__V1__HOST_REPORT__BODY_SPAWNED;
		break;
	case HOST_EXITED:
		exited_fill(&exited, r);
		to.exited = &exited;
		to.body_case = PINION__V1__HOST_REPORT__BODY_EXITED;
		break;
	}
	return codec_pack(&to.base, HOST_MESSAGE_MAX, out);
}

static enum err ready_view(struct arena *arena, struct host_report *out, const Pinion__V1__Ready *from, struct err_info *info)
{
	struct str *properties;

	out->kind = HOST_READY;
	if (from->n_properties > HOST_PROPERTIES_MAX)
		return err_set(info, ERR_PROTOCOL, "ready.properties: %zu of them, at most %d", from->n_properties,
		               HOST_PROPERTIES_MAX);
	properties = codec_array(arena, from->n_properties, sizeof(*properties), info);
	if (from->n_properties && !properties)
		return ERR_CAPACITY;
	for (size_t i = 0; i < from->n_properties; i++)
		properties[i] = field_str(from->properties[i]);
	out->properties = properties;
	out->n_properties = from->n_properties;
	return ERR_OK;
}

static void exited_view(struct host_report *out, const Pinion__V1__Exited *from)
{
	out->kind = HOST_EXITED;
	out->slot = from->slot;
	out->exit_status = from->exit_status;
	out->signal = from->signal;
	out->cpu_ms = from->cpu_ms;
	out->peak_rss_bytes = from->peak_rss_bytes;
	out->why = field_str(from->why);
}

static enum err host_report_view(struct arena *arena, struct host_report *out, const Pinion__V1__HostReport *from,
                                 struct err_info *info)
{
	switch (from->body_case) {
	case PINION__V1__HOST_REPORT__BODY_READY:
		return ready_view(arena, out, from->ready, info);
	case PINION__V1__HOST_REPORT__BODY_SPAWNED:
		out->kind = HOST_SPAWNED;
		out->slot = from->spawned->slot;
		out->pid = from->spawned->pid;
		return ERR_OK;
	case PINION__V1__HOST_REPORT__BODY_EXITED:
		exited_view(out, from->exited);
		return ERR_OK;
	default: /* kind 0: refused by the check */
		return ERR_OK;
	}
}

enum err host_report_decode(struct arena *arena, struct host_report *out, struct str in, struct err_info *info)
{
	struct check check = {.info = info, .decoding = true};
	const Pinion__V1__HostReport *from;
	const void *unpacked;
	enum err err;

	*out = (struct host_report){0};
	err = codec_unpack(&pinion__v1__host_report__descriptor, in, HOST_MESSAGE_MAX, arena, &unpacked, info);
	if (err)
		return err;
	from = unpacked;
	out->version = from->version;
	err = codec_version(from->version, info);
	if (!err)
		err = host_report_view(arena, out, from, info);
	if (err)
		return err;
	check_host_report(&check, out);
	return check.err;
}
