/* ws_frame.h - WebSocket text frames from server to client (RFC 6455, section 5.2: unmasked, FIN). Thread: the loop's. */
#ifndef PINION_GATEWAY_WS_FRAME_H
#define PINION_GATEWAY_WS_FRAME_H

#include "common/bytes.h"

#define WS_FRAME_HEADER_MAX 10

/* Writes the header of a text frame with n bytes of payload; returns its length: 2, 4 or 10. */
size_t ws_frame_header(char header[WS_FRAME_HEADER_MAX], size_t n);

/* A finished frame around the payload; one reference, the caller's. */
struct bytes *ws_frame_text(struct str payload);

#endif
