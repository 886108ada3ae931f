#include "gateway/ws_frame.h"

enum { WS_FIN_TEXT = 0x81, WS_LENGTH_16 = 126, WS_LENGTH_64 = 127 };

size_t ws_frame_header(char header[WS_FRAME_HEADER_MAX], size_t n)
{
	size_t wide = n < WS_LENGTH_16 ? 0 : n <= UINT16_MAX ? 2 : 8;

	header[0] = (char)WS_FIN_TEXT;
	header[1] = (char)(wide == 0 ? n : wide == 2 ? WS_LENGTH_16 : WS_LENGTH_64);
	for (size_t i = 0; i < wide; i++)
		header[2 + i] = (char)((uint64_t)n >> (8 * (wide - 1 - i)));
	return 2 + wide;
}

struct bytes *ws_frame_text(struct str payload)
{
	char header[WS_FRAME_HEADER_MAX];
	size_t n = ws_frame_header(header, payload.n);
	struct buf frame = {0};

	buf_append(&frame, header, n);
	buf_append_str(&frame, payload);
	struct bytes *bytes = bytes_create(frame.p, frame.n);
	buf_finish(&frame);
	return bytes;
}
