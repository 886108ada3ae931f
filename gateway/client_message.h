/*
 * client_message.h - strict parsing of what a client sends: every type and field of docs/protocol.md, "Client to server".
 *
 * A message is known, whole and within bounds, or it is refused with the error that the client is told. Views are of the
 * message's own arena, so that a parsed command can wait. Thread: any.
 */
#ifndef PINION_GATEWAY_CLIENT_MESSAGE_H
#define PINION_GATEWAY_CLIENT_MESSAGE_H

#include "common/arena.h"
#include "common/err.h"
#include "common/ids.h"
#include "proto/messages.h"

enum {
	CLIENT_ID_MAX = 64, /* bytes, as the others here */
	CLIENT_KEY_MAX = 64,
	CLIENT_TITLE_MAX = 200,
	CLIENT_NOTE_MAX = 1000,
	CLIENT_AGENT_MAX = 128,
	CLIENT_CURSOR_MAX = 128,
	CLIENT_METADATA_MAX = 4096,
	CLIENT_LIST_DEFAULT = 50,
	CLIENT_THREADS_MAX = 100,
	CLIENT_MESSAGES_MAX = 200,
};

enum client_kind { CLIENT_OTHER, CLIENT_COMMAND, CLIENT_AUTH, CLIENT_AUTH_REFRESH, CLIENT_PING };

struct client_message {
	enum client_kind kind;
	struct str id;          /* empty where none could be read */
	struct str token;       /* auth, auth.refresh */
	bool has_user_id;       /* auth: a user_id to be compared once the token is verified */
	struct str user_id;     /* empty where it is no string */
	struct command command; /* COMMAND: all but user_id, epoch, max_active, max_queued */
	struct arena arena;
};

/*
 * Parses `in`, valid UTF-8. user: whose session it is; NULL before authentication. Fills *out in every case, as far as it
 * came (kind and id where they could be read), and the caller finishes it. ERR_INVALID_MESSAGE, ERR_UNKNOWN_TYPE,
 * ERR_FORBIDDEN (another user_id), ERR_TOO_LARGE (a field), ERR_NOT_FOUND (an id that can't be one of ours).
 */
MUST_CHECK enum err client_message_parse(struct client_message *out, struct str in, const struct user_id *user,
                                         struct err_info *info);
void client_message_finish(struct client_message *message);

#endif
