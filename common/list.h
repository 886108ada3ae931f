/* list.h - uthash's linked lists (utlist.h, section "Doubly-linked lists"), in a form that a static analyzer can follow. */
#ifndef PINION_COMMON_LIST_H
#define PINION_COMMON_LIST_H

#include <utlist.h>

#ifdef __clang_analyzer__
/* It can't know that a head names its last element and that what was taken out is in the list no more: each loop over a list
 * would look like a use after free. This says only that head and element have changed. */
void list_changed(void *head, void *element);
#undef DL_APPEND2
#undef DL_PREPEND2
#undef DL_CONCAT2
#undef DL_DELETE2
#undef LL_DELETE2
#define DL_APPEND2(head, element, prev, next) list_changed(&(head), element)
#define DL_PREPEND2(head, element, prev, next) list_changed(&(head), element)
#define DL_CONCAT2(head, other, prev, next) list_changed(&(head), other)
#define DL_DELETE2(head, element, prev, next) list_changed(&(head), element)
#define LL_DELETE2(head, element, next) list_changed(&(head), element)
#endif

#endif
