/*
 * demo_rules.c - see demo_rules.h. Rules are tried from the most explicit to the vaguest: a command word, a question for the
 * time, something to calculate, "what is …", and at last the counting of words.
 */
#include "worker/host/agent/demo_rules.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/json.h"

#define KEY_MAX 200
#define SUBJECT_MAX 900
#define COUNT_TO_MAX 1000
#define COUNT_PACE_MS 100

/* ---- text ---- */

static struct str trim(struct str s, const char *drop)
{
	while (s.n > 0 && s.p[0] && strchr(drop, s.p[0]))
		s = str_of(s.p + 1, s.n - 1);
	while (s.n > 0 && s.p[s.n - 1] && strchr(drop, s.p[s.n - 1]))
		s.n--;
	return s;
}

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

/* Where the lower-case `word` begins in `text`, whatever case that has, as a word or words of its own; text.n: nowhere. */
static size_t find_word(struct str text, const char *word)
{
	size_t n = strlen(word);

	for (size_t i = 0; i + n <= text.n; i++) {
		size_t k = 0;

		while (k < n && lower(text.p[i + k]) == word[k])
			k++;
		if (k == n && (i == 0 || !isalnum((unsigned char)text.p[i - 1])) &&
		    (i + n == text.n || !isalnum((unsigned char)text.p[i + n])))
			return i;
	}
	return text.n;
}

static bool has_word(struct str text, const char *word)
{
	return find_word(text, word) < text.n;
}

static bool strip_first(struct str *text, const char *word)
{
	size_t n = strlen(word);

	if (find_word(*text, word) != 0 || text->n < n)
		return false;
	*text = trim(str_of(text->p + n, text->n - n), " \t\r\n");
	return true;
}

/* Takes one of the openings in the NULL-ended list off the front. */
static bool strip_any(struct str *text, const char *const *openings)
{
	for (; *openings; openings++)
		if (strip_first(text, *openings))
			return true;
	return false;
}

static bool is_one_of(struct str text, const char *const *phrases)
{
	for (; *phrases; phrases++)
		if (text.n == strlen(*phrases) && find_word(text, *phrases) == 0 && text.n > 0)
			return true;
	return false;
}

/* ---- plans ---- */

static void set_plan(struct demo_plan *plan, enum demo_intent intent, const char *thought, const char *tool)
{
	plan->intent = intent;
	plan->thought = thought;
	plan->tool = tool;
	plan->arguments = json_object();
}

static void set_argument(struct demo_plan *plan, const char *name, struct str value)
{
	(void)json_object_set_new(plan->arguments, name, json_stringn(value.p ? value.p : "", value.n));
}

static void set_subject(struct demo_plan *plan, struct str subject)
{
	subject = utf8_prefix(subject, SUBJECT_MAX);
	free(plan->subject);
	plan->subject = strndup(subject.p ? subject.p : "", subject.n);
}

static void plan_notes(struct demo_plan *plan, enum demo_intent intent, const char *thought, const char *op)
{
	set_plan(plan, intent, thought, "notes");
	set_argument(plan, "op", str_c(op));
}

/* "My Colour" and "colour" are the same thing to remember. */
static void set_key(struct demo_plan *plan, struct str key)
{
	static const char *const fillers[] = {"my", "the", "that", "note", NULL};
	char folded[KEY_MAX + 1];
	struct str rest;

	key = trim(key, " \t\r\n?!.,:;\"'");
	rest = key;
	while (strip_any(&rest, fillers) && rest.n > 0)
		key = rest;
	key = utf8_prefix(key, KEY_MAX);
	for (size_t i = 0; i < key.n; i++)
		folded[i] = lower(key.p[i]);
	set_subject(plan, str_of(folded, key.n));
	set_argument(plan, "key", str_of(folded, key.n));
}

static bool plan_help(struct demo_plan *plan, struct str text)
{
	static const char *const phrases[] = {"help",         "hello",           "hi",          "hey",
	                                      "good morning", "what can you do", "who are you", NULL};

	if (text.n > 0 && !is_one_of(text, phrases))
		return false;
	plan_notes(plan, DEMO_HELP, "They would like to know what I can do. I'll look at what I have noted for them.", "list");
	return true;
}

static bool plan_list(struct demo_plan *plan, struct str text)
{
	static const char *const phrases[] = {
		"list notes",           "list my notes",    "notes", "my notes", "show notes", "show my notes",
		"what do you remember", "what do you know", NULL};

	if (!is_one_of(text, phrases))
		return false;
	plan_notes(plan, DEMO_LIST, "They ask for their notes.", "list");
	return true;
}

/* "key is value", "key are value", "key = value", "key: value", whichever comes first; else the first word is the key. */
static void split_fact(struct str fact, struct str *key, struct str *value)
{
	size_t is = find_word(fact, "is"), are = find_word(fact, "are"), at = is < are ? is : are, width = at == is ? 2 : 3;

	for (size_t i = 0; i < at; i++)
		if (fact.p[i] == '=' || fact.p[i] == ':') {
			at = i;
			width = 1;
		}
	if (at == fact.n) {
		const char *space = memchr(fact.p, ' ', fact.n);

		at = space ? (size_t)(space - fact.p) : fact.n;
		width = 1;
	}
	*key = str_of(fact.p, at);
	*value = at < fact.n ? trim(str_of(fact.p + at + width, fact.n - at - width), " \t\r\n") : (struct str){0};
}

static bool plan_remember(struct demo_plan *plan, struct str text)
{
	static const char *const openings[] = {"please remember", "remember", "note", "save", "store", NULL};
	struct str key, value;

	if (!strip_any(&text, openings) || text.n == 0)
		return false;
	text = trim(text, ": \t");
	(void)strip_first(&text, "that");
	split_fact(text, &key, &value);
	if (value.n == 0) { /* a single word: what it is about isn't said */
		value = text;
		key = str_c("note");
	}
	plan_notes(plan, DEMO_REMEMBER, "There is something to remember. I'll put it into their notes.", "put");
	set_key(plan, key);
	set_argument(plan, "value", value);
	return true;
}

static bool plan_key(struct demo_plan *plan, struct str text, const char *const *openings, enum demo_intent intent,
                     const char *thought, const char *op)
{
	if (!strip_any(&text, openings) || trim(text, " ?!.").n == 0)
		return false;
	plan_notes(plan, intent, thought, op);
	set_key(plan, text);
	return true;
}

static bool plan_forget(struct demo_plan *plan, struct str text)
{
	static const char *const openings[] = {"please forget", "forget", "delete", "remove", NULL};

	return plan_key(plan, text, openings, DEMO_FORGET, "They want something forgotten. I'll delete that note.", "delete");
}

static bool plan_recall(struct demo_plan *plan, struct str text)
{
	static const char *const openings[] = {"recall", "do you remember", "get", "look up", NULL};

	return plan_key(plan, text, openings, DEMO_RECALL, "They ask for something that I may have noted.", "get");
}

static bool plan_question(struct demo_plan *plan, struct str text)
{
	static const char *const openings[] = {"what is", "what's",   "what are", "what was",
	                                       "who is",  "where is", "tell me",  NULL};

	return plan_key(plan, text, openings, DEMO_RECALL, "Perhaps I have noted that. I'll look.", "get");
}

/* ---- the time ---- */

static const struct {
	const char *city, *zone;
} cities[] = {
	{"utc", "UTC"},
	{"gmt", "UTC"},
	{"berlin", "Europe/Berlin"},
	{"london", "Europe/London"},
	{"paris", "Europe/Paris"},
	{"madrid", "Europe/Madrid"},
	{"rome", "Europe/Rome"},
	{"vienna", "Europe/Vienna"},
	{"zurich", "Europe/Zurich"},
	{"moscow", "Europe/Moscow"},
	{"new york", "America/New_York"},
	{"chicago", "America/Chicago"},
	{"los angeles", "America/Los_Angeles"},
	{"san francisco", "America/Los_Angeles"},
	{"sao paulo", "America/Sao_Paulo"},
	{"dubai", "Asia/Dubai"},
	{"delhi", "Asia/Kolkata"},
	{"mumbai", "Asia/Kolkata"},
	{"singapore", "Asia/Singapore"},
	{"shanghai", "Asia/Shanghai"},
	{"beijing", "Asia/Shanghai"},
	{"seoul", "Asia/Seoul"},
	{"tokyo", "Asia/Tokyo"},
	{"sydney", "Australia/Sydney"},
	{"nairobi", "Africa/Nairobi"},
	{"cairo", "Africa/Cairo"},
};

static bool zone_char(char c)
{
	return isalnum((unsigned char)c) || c == '_' || c == '/' || c == '+' || c == '-';
}

/* The first word that looks like Area/City, as it stands there; or a known city's zone. */
static struct str find_zone(struct str text)
{
	for (size_t i = 0, end; i < text.n; i = end + 1) {
		struct str word;

		for (end = i; end < text.n && zone_char(text.p[end]);)
			end++;
		word = str_of(text.p + i, end - i);
		if (word.n > 2 && isalpha((unsigned char)word.p[0]) && memchr(word.p, '/', word.n - 1))
			return word;
	}
	for (size_t i = 0; i < sizeof(cities) / sizeof(cities[0]); i++)
		if (has_word(text, cities[i].city))
			return str_c(cities[i].zone);
	return (struct str){0};
}

static bool plan_clock(struct demo_plan *plan, struct str text)
{
	struct str zone;

	if (!has_word(text, "time") && !has_word(text, "date") && !has_word(text, "clock") && !has_word(text, "today") &&
	    !has_word(text, "what day"))
		return false;
	set_plan(plan, DEMO_CLOCK, "They ask for the time. I'll look at the clock.", "clock");
	zone = find_zone(text);
	if (zone.n > 0)
		set_argument(plan, "timezone", zone);
	return true;
}

/* ---- arithmetic ---- */

static bool is_operator(char c)
{
	return c && strchr("+-*/%^", c);
}

/* A known function or constant at the front of `s`: its length, else 0. */
static size_t name_length(struct str s)
{
	static const char *const names[] = {"sqrt", "abs", "min", "max", "floor", "ceil", "round", "ln",
	                                    "log",  "exp", "sin", "cos", "tan",   "pi",   "e"};
	size_t n = 0;

	while (n < s.n && isalpha((unsigned char)s.p[n]))
		n++;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (n > 0 && str_eq_c(str_of(s.p, n), names[i]))
			return n;
	return 0;
}

/* How much of `s`, from its front, is made of what expressions are made of. */
static size_t expression_length(struct str s)
{
	size_t n = 0;

	while (n < s.n) {
		size_t step = s.p[n] && strchr("0123456789.,() \t", s.p[n]) ? 1
		              : is_operator(s.p[n])                         ? 1
		                                                            : name_length(str_of(s.p + n, s.n - n));

		if (step == 0)
			break;
		n += step;
	}
	return n;
}

/* Something that has a value beyond what it says itself: a digit, and an operator behind something or a function. */
static bool is_worth_computing(struct str s)
{
	bool digit = false, does = false;

	for (size_t i = 0; i < s.n; i++) {
		digit = digit || isdigit((unsigned char)s.p[i]);
		does = does || (i > 0 && is_operator(s.p[i])) || (i > 0 && s.p[i] == '(' && isalpha((unsigned char)s.p[i - 1]));
	}
	return digit && does;
}

static struct str find_expression(struct str text)
{
	struct str best = {0};

	for (size_t i = 0; i < text.n;) {
		size_t n = i > 0 && isalnum((unsigned char)text.p[i - 1]) && isalpha((unsigned char)text.p[i])
		                   ? 0
		                   : expression_length(str_of(text.p + i, text.n - i));
		struct str found = trim(str_of(text.p + i, n), " \t.,");

		if (found.n > best.n && is_worth_computing(found))
			best = found;
		i += n > 0 ? n : 1;
	}
	return best;
}

static bool plan_calculate(struct demo_plan *plan, struct str text)
{
	struct str expression = find_expression(text);

	if (expression.n == 0)
		return false;
	set_plan(plan, DEMO_CALCULATE, "That is something to calculate.", "calculator");
	set_argument(plan, "expression", expression);
	set_subject(plan, expression);
	return true;
}

/* ---- counting up: an answer that takes a while ---- */

static bool plan_count_up(struct demo_plan *plan, struct str text)
{
	static const char *const openings[] = {"please", "can you", "count", "up", "to", NULL};
	char expression[64];
	unsigned n = 0;

	if (!has_word(text, "count to") && !has_word(text, "count up to"))
		return false;
	while (strip_any(&text, openings))
		;
	for (; text.n > 0 && isdigit((unsigned char)text.p[0]) && n <= COUNT_TO_MAX; text = str_of(text.p + 1, text.n - 1))
		n = n * 10 + (unsigned)(text.p[0] - '0');
	if (n == 0 || n > COUNT_TO_MAX || text.n > 0)
		return false;
	set_plan(plan, DEMO_COUNT_UP, "They would like me to count. I'll work out how long that takes.", "calculator");
	snprintf(expression, sizeof(expression), "%u * %d / 1000", n, COUNT_PACE_MS);
	set_argument(plan, "expression", str_c(expression));
	snprintf(expression, sizeof(expression), "%u", n);
	set_subject(plan, str_c(expression));
	plan->pace_ms = COUNT_PACE_MS;
	return true;
}

static void answer_count_up(const struct demo_plan *plan, struct buf *out)
{
	unsigned long n = strtoul(plan->subject, NULL, 10);

	for (unsigned long i = 1; i <= n; i++)
		buf_printf(out, "%s%lu", i > 1 ? " " : "", i);
}

/* ---- anything else ---- */

static void plan_count(struct demo_plan *plan, struct str text)
{
	size_t words = 0, characters = 0;
	char expression[64];
	bool inside = false;

	for (size_t i = 0; i < text.n; i++) {
		bool space = text.p[i] == ' ' || text.p[i] == '\n' || text.p[i] == '\t' || text.p[i] == '\r';

		words += !space && !inside;
		characters += !space && ((unsigned char)text.p[i] & 0xc0) != 0x80;
		inside = !space;
	}
	snprintf(expression, sizeof(expression), "round(10 * %zu / %zu) / 10", characters, words > 0 ? words : 1);
	set_plan(plan, DEMO_COUNT, "I have no rule for that. I can at least count the words.", "calculator");
	set_argument(plan, "expression", str_c(expression));
	snprintf(expression, sizeof(expression), "%zu %s", words, words == 1 ? "word" : "words");
	set_subject(plan, str_c(expression));
}

void demo_plan(struct demo_plan *plan, struct str text)
{
	struct str said = trim(text, " \t\r\n"), bare = trim(said, " \t\r\n?!.");

	*plan = (struct demo_plan){.intent = DEMO_HELP};
	if (plan_help(plan, bare) || plan_list(plan, bare) || plan_count_up(plan, bare) || plan_remember(plan, said) ||
	    plan_forget(plan, bare) || plan_recall(plan, bare) || plan_clock(plan, bare) || plan_calculate(plan, bare) ||
	    plan_question(plan, bare))
		return;
	plan_count(plan, said);
}

void demo_plan_finish(struct demo_plan *plan)
{
	json_decref(plan->arguments);
	free(plan->subject);
	*plan = (struct demo_plan){.intent = DEMO_HELP};
}

/* ---- answers ---- */

static void append_value(struct buf *out, const json_t *value)
{
	if (json_is_string(value))
		buf_append(out, json_string_value(value), json_string_length(value));
	else if (value)
		json_write(out, value);
}

/* The keys in a list of notes, joined by commas: [key, …], or [{"key":…}, …], or either under "notes" or "keys". */
static size_t append_keys(struct buf *out, const json_t *result)
{
	const json_t *list = result, *item;
	size_t i;

	if (json_is_object(result))
		list = json_object_get(result, "keys") ? json_object_get(result, "keys") : json_object_get(result, "notes");
	json_array_foreach((json_t *)list, i, item)
	{
		if (i > 0)
			buf_append_c(out, ", ");
		append_value(out, json_is_object(item) ? json_object_get(item, "key") : item);
	}
	return json_array_size(list);
}

static void answer_clock(const json_t *result, struct buf *out)
{
	const char *local = json_string_value(json_object_get(result, "local"));
	const char *zone = json_string_value(json_object_get(result, "timezone"));
	const char *utc = json_string_value(json_object_get(result, "utc"));

	if (!local || !zone || !utc || strlen(local) < 19 || strlen(utc) < 19) {
		append_value(out, result);
		return;
	}
	buf_printf(out, "In %s it is %.8s on %.10s (%.8s UTC).", zone, local + 11, local, utc + 11);
}

static void answer_recall(const struct demo_plan *plan, const json_t *result, struct buf *out)
{
	const json_t *value = json_is_object(result) && json_object_get(result, "value") ? json_object_get(result, "value")
	                                                                                 : result;

	if (!value || json_is_null(value) || (json_is_object(value) && json_is_false(json_object_get(value, "found")))) {
		buf_printf(out, "I have no note of \"%s\". Tell me: remember %s is …", plan->subject, plan->subject);
		return;
	}
	buf_printf(out, "%s is ", plan->subject);
	append_value(out, value);
	buf_append_c(out, ".");
}

static void answer_list(const json_t *result, struct buf *out)
{
	struct buf keys = {0};
	size_t n = append_keys(&keys, result);

	if (n == 0) {
		buf_append_c(out, "I have no notes of yours yet. Try: remember my favourite colour is blue");
	} else {
		buf_printf(out, "I remember %zu %s: ", n, n == 1 ? "thing" : "things");
		buf_append_str(out, buf_str(&keys));
		buf_append_c(out, ".");
	}
	buf_finish(&keys);
}

static void answer_help(const json_t *result, struct buf *out)
{
	buf_append_c(out, "Hello! I'm Pinion's demo agent. I follow a few rules and really use tools. Try:\n"
	                  "- what time is it in Tokyo?\n"
	                  "- what is (2 + 3) * sqrt(16)?\n"
	                  "- remember my favourite colour is blue\n"
	                  "- what is my favourite colour?\n"
	                  "- list notes\n"
	                  "- count to 20\n"
	                  "- forget favourite colour\n");
	answer_list(result, out);
}

static void answer_ok(const struct demo_plan *plan, const json_t *result, struct buf *out)
{
	switch (plan->intent) {
	case DEMO_HELP:
		answer_help(result, out);
		break;
	case DEMO_CLOCK:
		answer_clock(result, out);
		break;
	case DEMO_CALCULATE:
		buf_printf(out, "%s = ", plan->subject);
		append_value(out, result);
		break;
	case DEMO_REMEMBER:
		buf_printf(out, "I'll remember that %s is ", plan->subject);
		append_value(out, json_object_get(plan->arguments, "value"));
		buf_append_c(out, ".");
		break;
	case DEMO_RECALL:
		answer_recall(plan, result, out);
		break;
	case DEMO_FORGET:
		if (json_is_false(json_object_get(result, "deleted")))
			buf_printf(out, "I had no note of \"%s\".", plan->subject);
		else
			buf_printf(out, "I have forgotten %s.", plan->subject);
		break;
	case DEMO_LIST:
		answer_list(result, out);
		break;
	case DEMO_COUNT_UP:
		answer_count_up(plan, out);
		break;
	case DEMO_COUNT:
		buf_printf(out, "You wrote %s, of ", plan->subject);
		append_value(out, result);
		buf_append_c(out, " characters on average. I'm only a demo with a few rules: say \"help\" to see them.");
		break;
	}
}

static void answer_not_ok(const struct demo_plan *plan, enum tool_status status, const json_t *result, struct buf *out)
{
	switch (status) {
	case TOOL_ERROR:
		if (plan->intent == DEMO_RECALL || plan->intent == DEMO_FORGET)
			buf_printf(out, "I can't find a note of \"%s\": ", plan->subject);
		else
			buf_printf(out, "The %s says: ", plan->tool);
		append_value(out, result);
		break;
	case TOOL_DENIED:
		buf_printf(out, "I'm not allowed to use the %s tool.", plan->tool);
		break;
	case TOOL_IN_DOUBT:
		buf_printf(out, "I was interrupted while I used the %s tool, and can't tell whether it was done. Please check.",
		           plan->tool);
		break;
	default:
		buf_printf(out, "The %s tool did not come to an end.", plan->tool);
		break;
	}
}

void demo_answer(const struct demo_plan *plan, enum tool_status status, struct str result, struct buf *out)
{
	json_t *parsed = NULL;

	if (json_parse(&parsed, result, NULL) != ERR_OK)
		parsed = json_null();
	if (status == TOOL_OK)
		answer_ok(plan, parsed, out);
	else
		answer_not_ok(plan, status, parsed, out);
	json_decref(parsed);
}
