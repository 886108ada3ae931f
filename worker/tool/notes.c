#include "worker/tool/notes.h"

#include "common/json.h"

static bool refuse(struct buf *wrong, const char *why)
{
	json_write_string(wrong, str_c(why));
	return false;
}

static bool take_op(struct notes_request *request, const json_t *args, struct buf *wrong)
{
	static const char *const names[] = {"put", "get", "list", "delete"};
	const char *op = json_string_value(json_object_get(args, "op"));
	for (size_t i = 0; op && i < 4; i++) {
		if (strcmp(op, names[i]) == 0) {
			request->op = (enum notes_op)i;
			return true;
		}
	}
	return refuse(wrong, "\"op\" must be one of \"put\", \"get\", \"list\", \"delete\"");
}

static bool take_key(struct notes_request *request, const json_t *args, struct buf *wrong)
{
	const json_t *key = json_object_get(args, "key");
	if (request->op == NOTES_LIST)
		return key ? refuse(wrong, "\"list\" takes no \"key\"") : true;
	if (!json_is_string(key) || json_string_length(key) == 0 || json_string_length(key) > NOTE_KEY_MAX)
		return refuse(wrong, "\"key\" must be a string of 1 to 256 bytes");
	buf_append(&request->key, json_string_value(key), json_string_length(key));
	return true;
}

static bool take_value(struct notes_request *request, const json_t *args, struct buf *wrong)
{
	const json_t *value = json_object_get(args, "value");
	if (request->op != NOTES_PUT)
		return value ? refuse(wrong, "only \"put\" takes a \"value\"") : true;
	if (!value)
		return refuse(wrong, "\"put\" needs a \"value\"");
	json_write(&request->value, value);
	if (request->value.n > NOTE_VALUE_MAX)
		return refuse(wrong, "the \"value\" has more than 65536 bytes");
	return true;
}

static bool has_only_known(const json_t *args, struct buf *wrong)
{
	const char *key;
	json_t *value;
	json_object_foreach((json_t *)args, key, value)
	{
		if (strcmp(key, "op") != 0 && strcmp(key, "key") != 0 && strcmp(key, "value") != 0)
			return refuse(wrong, "notes takes only \"op\", \"key\" and \"value\"");
	}
	return true;
}

bool notes_parse(struct notes_request *request, struct str arguments, struct buf *wrong)
{
	json_t *args;
	*request = (struct notes_request){0};
	if (json_parse(&args, arguments, NULL) != ERR_OK)
		return refuse(wrong, "the arguments are not JSON");
	bool ok = json_is_object(args) ? has_only_known(args, wrong) && take_op(request, args, wrong) &&
	                                         take_key(request, args, wrong) && take_value(request, args, wrong)
	                               : refuse(wrong, "the arguments must be an object");
	json_decref(args);
	return ok;
}

void notes_finish(struct notes_request *request)
{
	buf_finish(&request->key);
	buf_finish(&request->value);
}

static void begin_keyed(struct buf *out, const struct notes_request *request)
{
	buf_append_c(out, "{\"key\":");
	json_write_string(out, buf_str(&request->key));
}

void notes_put_result(struct buf *out, const struct notes_request *request)
{
	begin_keyed(out, request);
	buf_append_c(out, ",\"stored\":true}");
}

void notes_get_result(struct buf *out, const struct notes_request *request, bool found, struct str value)
{
	begin_keyed(out, request);
	if (found) {
		buf_append_c(out, ",\"value\":");
		buf_append_str(out, value);
		buf_append_c(out, "}");
	} else {
		buf_append_c(out, ",\"found\":false}");
	}
}

void notes_list_result(struct buf *out, const struct str *keys, size_t n)
{
	buf_append_c(out, "{\"keys\":[");
	for (size_t i = 0; i < n; i++) {
		if (i > 0)
			buf_append_c(out, ",");
		json_write_string(out, keys[i]);
	}
	buf_append_c(out, "]}");
}

void notes_delete_result(struct buf *out, const struct notes_request *request, bool found)
{
	begin_keyed(out, request);
	buf_printf(out, ",\"deleted\":%s}", found ? "true" : "false");
}
