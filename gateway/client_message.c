#include "gateway/client_message.h"

#include "common/json.h"
#include "proto/codec.h"

enum field_kind {
	FIELD_STRING, /* 1 to max bytes */
	FIELD_TEXT,   /* 0 to max bytes */
	FIELD_KEY,    /* a string that doesn't start with U+0001, which marks the keys that gateways make */
	FIELD_OUR_ID, /* a string; not_found where it can't be an ID of ours */
	FIELD_INPUT,
	FIELD_METADATA,
	FIELD_ON_BUSY,
	FIELD_DECISION,
	FIELD_LIMIT, /* integer, 1 to max */
};

struct field {
	const char *name;
	enum field_kind kind;
	size_t offset; /* in struct client_message */
	size_t max;
	bool required;
};

#define AT(member) offsetof(struct client_message, member)
#define REQUIRED true
#define OPTIONAL false

static const struct field fields_run_start[] = {
	{"input", FIELD_INPUT, AT(command.input), COMMAND_INPUT_MAX, REQUIRED},
	{"agent", FIELD_STRING, AT(command.agent), CLIENT_AGENT_MAX, OPTIONAL},
	{"thread_id", FIELD_OUR_ID, AT(command.thread_id), 0, OPTIONAL},
	{"idempotency_key", FIELD_KEY, AT(command.idempotency_key), CLIENT_KEY_MAX, OPTIONAL},
	{"on_busy", FIELD_ON_BUSY, AT(command.on_busy), 0, OPTIONAL},
	{"metadata", FIELD_METADATA, AT(command.metadata), CLIENT_METADATA_MAX, OPTIONAL},
};
static const struct field fields_run_cancel[] = {
	{"run_id", FIELD_OUR_ID, AT(command.run_id), 0, REQUIRED},
};
static const struct field fields_tool_decide[] = {
	{"run_id", FIELD_OUR_ID, AT(command.run_id), 0, REQUIRED},
	{"tool_call_id", FIELD_OUR_ID, AT(command.tool_call_id), 0, REQUIRED},
	{"decision", FIELD_DECISION, AT(command.allow), 0, REQUIRED},
	{"note", FIELD_TEXT, AT(command.note), CLIENT_NOTE_MAX, OPTIONAL},
};
static const struct field fields_thread_list[] = {
	{"limit", FIELD_LIMIT, AT(command.limit), CLIENT_THREADS_MAX, OPTIONAL},
	{"before", FIELD_STRING, AT(command.before), CLIENT_CURSOR_MAX, OPTIONAL},
};
static const struct field fields_thread_history[] = {
	{"thread_id", FIELD_OUR_ID, AT(command.thread_id), 0, REQUIRED},
	{"limit", FIELD_LIMIT, AT(command.limit), CLIENT_MESSAGES_MAX, OPTIONAL},
	{"before", FIELD_STRING, AT(command.before), CLIENT_CURSOR_MAX, OPTIONAL},
};
static const struct field fields_thread_rename[] = {
	{"thread_id", FIELD_OUR_ID, AT(command.thread_id), 0, REQUIRED},
	{"title", FIELD_STRING, AT(command.title), CLIENT_TITLE_MAX, REQUIRED},
};
static const struct field fields_thread_delete[] = {
	{"thread_id", FIELD_OUR_ID, AT(command.thread_id), 0, REQUIRED},
};
static const struct field fields_run_list[] = {
	{"thread_id", FIELD_OUR_ID, AT(command.thread_id), 0, OPTIONAL},
	{"limit", FIELD_LIMIT, AT(command.limit), CLIENT_THREADS_MAX, OPTIONAL},
	{"before", FIELD_STRING, AT(command.before), CLIENT_CURSOR_MAX, OPTIONAL},
};
static const struct field fields_token[] = {
	{"token", FIELD_TEXT, AT(token), SIZE_MAX, REQUIRED},
};

struct message_type {
	const char *name;
	enum client_kind kind;
	enum command_kind command;
	const struct field *fields;
	size_t n_fields;
};

#define FIELDS(a) a, sizeof(a) / sizeof((a)[0])

static const struct message_type types[] = {
	{"run.start", CLIENT_COMMAND, COMMAND_RUN_START, FIELDS(fields_run_start)},
	{"run.cancel", CLIENT_COMMAND, COMMAND_RUN_CANCEL, FIELDS(fields_run_cancel)},
	{"tool.decide", CLIENT_COMMAND, COMMAND_TOOL_DECIDE, FIELDS(fields_tool_decide)},
	{"thread.list", CLIENT_COMMAND, COMMAND_THREAD_LIST, FIELDS(fields_thread_list)},
	{"thread.history", CLIENT_COMMAND, COMMAND_THREAD_HISTORY, FIELDS(fields_thread_history)},
	{"thread.rename", CLIENT_COMMAND, COMMAND_THREAD_RENAME, FIELDS(fields_thread_rename)},
	{"thread.delete", CLIENT_COMMAND, COMMAND_THREAD_DELETE, FIELDS(fields_thread_delete)},
	{"run.list", CLIENT_COMMAND, COMMAND_RUN_LIST, FIELDS(fields_run_list)},
	{"auth", CLIENT_AUTH, 0, FIELDS(fields_token)},
	{"auth.refresh", CLIENT_AUTH_REFRESH, 0, FIELDS(fields_token)},
	{"ping", CLIENT_PING, 0, NULL, 0},
};

static struct str json_str(const json_t *value)
{
	return str_of(json_string_value(value), json_string_length(value));
}

static enum err invalid(struct err_info *info, const char *name, const char *what)
{
	return err_set(info, ERR_INVALID_MESSAGE, "%s: %s", name, what);
}

static enum err keep(struct client_message *m, struct str *out, struct str s, struct err_info *info)
{
	*out = arena_copy(&m->arena, s);
	return out->p ? ERR_OK : err_set(info, ERR_INTERNAL, NULL);
}

static enum err parse_string(struct client_message *m, const struct field *f, const json_t *value, struct err_info *info)
{
	struct str s = json_str(value);

	if (!json_is_string(value))
		return invalid(info, f->name, "must be a string");
	if (s.n == 0 && f->kind != FIELD_TEXT)
		return invalid(info, f->name, "must not be empty");
	if (f->kind == FIELD_KEY && s.p[0] == '\x01')
		return invalid(info, f->name, "must not start with U+0001");
	if (s.n > f->max)
		return err_set(info, ERR_TOO_LARGE, "%s: at most %zu bytes", f->name, f->max);
	return keep(m, (struct str *)((char *)m + f->offset), s, info);
}

/* Keeps the value's compact text. */
static enum err parse_json(struct client_message *m, const struct field *f, const json_t *value, struct err_info *info)
{
	struct buf text = {0};
	enum err err;

	if (!json_is_object(value) && !(f->kind == FIELD_INPUT && json_is_string(value)))
		return invalid(info, f->name, f->kind == FIELD_INPUT ? "must be a string or an object" : "must be an object");
	json_write(&text, value);
	if (text.n > f->max)
		err = err_set(info, ERR_TOO_LARGE, "%s: at most %zu bytes", f->name, f->max);
	else
		err = keep(m, (struct str *)((char *)m + f->offset), buf_str(&text), info);
	buf_finish(&text);
	return err;
}

static enum err parse_choice(struct client_message *m, const struct field *f, const json_t *value, struct err_info *info)
{
	static const char *const busy[] = {
		[ON_BUSY_ENQUEUE] = "enqueue", [ON_BUSY_REJECT] = "reject", [ON_BUSY_INTERRUPT] = "interrupt"};
	struct str s = json_str(value);

	if (f->kind == FIELD_DECISION) {
		m->command.allow = json_is_string(value) && str_eq_c(s, "allow");
		if (m->command.allow || (json_is_string(value) && str_eq_c(s, "deny")))
			return ERR_OK;
		return invalid(info, f->name, "must be \"allow\" or \"deny\"");
	}
	for (size_t i = 0; json_is_string(value) && i < sizeof(busy) / sizeof(busy[0]); i++) {
		if (str_eq_c(s, busy[i])) {
			m->command.on_busy = (enum on_busy)i;
			return ERR_OK;
		}
	}
	return invalid(info, f->name, "must be \"enqueue\", \"reject\" or \"interrupt\"");
}

static enum err parse_limit(struct client_message *m, const struct field *f, const json_t *value, struct err_info *info)
{
	json_int_t n = json_integer_value(value);

	if (!json_is_integer(value) || n < 1 || n > (json_int_t)f->max)
		return err_set(info, ERR_INVALID_MESSAGE, "%s: must be an integer from 1 to %zu", f->name, f->max);
	m->command.limit = (uint32_t)n;
	return ERR_OK;
}

static enum err parse_our_id(struct client_message *m, const struct field *f, const json_t *value, struct err_info *info)
{
	struct id id;

	if (!json_is_string(value))
		return invalid(info, f->name, "must be a string");
	if (!id_parse(&id, json_str(value)))
		return err_set(info, ERR_NOT_FOUND, NULL);
	return keep(m, (struct str *)((char *)m + f->offset), json_str(value), info);
}

static enum err parse_field(struct client_message *m, const struct field *f, const json_t *value, struct err_info *info)
{
	switch (f->kind) {
	case FIELD_STRING:
	case FIELD_TEXT:
	case FIELD_KEY:
		return parse_string(m, f, value, info);
	case FIELD_OUR_ID:
		return parse_our_id(m, f, value, info);
	case FIELD_INPUT:
	case FIELD_METADATA:
		return parse_json(m, f, value, info);
	case FIELD_ON_BUSY:
	case FIELD_DECISION:
		return parse_choice(m, f, value, info);
	case FIELD_LIMIT:
		return parse_limit(m, f, value, info);
	}
	return err_set(info, ERR_INTERNAL, NULL);
}

static bool is_known_field(const struct message_type *type, const char *name)
{
	if (strcmp(name, "type") == 0 || strcmp(name, "id") == 0 || strcmp(name, "user_id") == 0)
		return true;
	for (size_t i = 0; i < type->n_fields; i++)
		if (strcmp(name, type->fields[i].name) == 0)
			return true;
	return false;
}

static enum err check_names(const struct message_type *type, json_t *root, struct err_info *info)
{
	const char *name;
	json_t *value;

	json_object_foreach(root, name, value) if (!is_known_field(type, name)) return err_set(info, ERR_INVALID_MESSAGE,
	                                                                                       "%s has no field \"%.64s\"",
	                                                                                       type->name, name);
	return ERR_OK;
}

/* A malformed message is invalid whatever else it is: not_found comes only when all the rest is right. */
static enum err parse_fields(struct client_message *m, const struct message_type *type, json_t *root, struct err_info *info)
{
	enum err found = ERR_OK;

	for (size_t i = 0; i < type->n_fields; i++) {
		const struct field *f = &type->fields[i];
		const json_t *value = json_object_get(root, f->name);
		if (!value && f->required)
			return invalid(info, f->name, "is missing");
		if (!value && f->kind == FIELD_LIMIT)
			m->command.limit = CLIENT_LIST_DEFAULT;
		if (!value)
			continue;
		enum err err = parse_field(m, f, value, info);
		if (err == ERR_NOT_FOUND)
			found = err;
		else if (err)
			return err;
	}
	return found ? err_set(info, found, NULL) : ERR_OK;
}

static enum err parse_id(struct client_message *m, json_t *root, struct err_info *info)
{
	const json_t *id = json_object_get(root, "id");

	if (!json_is_string(id) || json_string_length(id) == 0 || json_string_length(id) > CLIENT_ID_MAX)
		return invalid(info, "id", "must be a string of 1 to 64 bytes");
	return keep(m, &m->id, json_str(id), info);
}

static enum err check_user(struct client_message *m, json_t *root, const struct user_id *user, struct err_info *info)
{
	const json_t *value = json_object_get(root, "user_id");

	if (!value)
		return ERR_OK;
	m->has_user_id = true;
	if (user && !(json_is_string(value) && str_eq(json_str(value), user_id_str(user))))
		return err_set(info, ERR_FORBIDDEN, "user_id is not this connection's user");
	if (json_is_string(value))
		return keep(m, &m->user_id, json_str(value), info);
	return ERR_OK;
}

static const struct message_type *find_type(struct str name)
{
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (str_eq_c(name, types[i].name))
			return &types[i];
	return NULL;
}

static enum err parse_object(struct client_message *m, json_t *root, const struct user_id *user, struct err_info *info)
{
	const json_t *name = json_object_get(root, "type");
	const struct message_type *type = json_is_string(name) ? find_type(json_str(name)) : NULL;
	enum err err;

	if (!json_is_object(root))
		return err_set(info, ERR_INVALID_MESSAGE, "a message is a JSON object");
	if (type) {
		m->kind = type->kind;
		m->command.kind = type->command;
	}
	if ((err = parse_id(m, root, info)) != ERR_OK)
		return err;
	m->command.client_id = m->id;
	if (!json_is_string(name))
		return invalid(info, "type", name ? "must be a string" : "is missing");
	if ((err = check_user(m, root, user, info)) != ERR_OK)
		return err;
	if (!type)
		return err_set(info, ERR_UNKNOWN_TYPE, NULL);
	if ((err = check_names(type, root, info)) != ERR_OK)
		return err;
	return parse_fields(m, type, root, info);
}

enum err client_message_parse(struct client_message *out, struct str in, const struct user_id *user, struct err_info *info)
{
	json_t *root;

	*out = (struct client_message){0};
	arena_init(&out->arena, 0);
	enum err err = json_parse(&root, in, info);
	if (err)
		return err;
	err = parse_object(out, root, user, info);
	json_decref(root);
	return err;
}

void client_message_finish(struct client_message *message)
{
	arena_finish(&message->arena);
}
