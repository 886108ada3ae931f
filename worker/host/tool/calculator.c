/*
 * calculator.c - the `calculator` tool: arithmetic as people write it.
 *
 * A recursive-descent parser that evaluates as it goes; length and depth are bounded, so that no input can exhaust the
 * stack. Whole numbers are computed exactly in 64 bits for as long as they fit, all else in double.
 *
 *   sum     = product { ("+" | "-") product }
 *   product = unary { ("*" | "/" | "%") unary }
 *   unary   = ("+" | "-") unary | power
 *   power   = atom [ "^" unary ]              right-associative; binds tighter than a sign to its left: -2^2 is -4
 *   atom    = number | constant | function "(" sum { "," sum } ")" | "(" sum ")"
 */
#include "worker/host/tool/tools.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "common/json.h"

#define EXPRESSION_MAX 1000
#define DEPTH_MAX 64

struct number {
	bool whole; /* i holds it exactly */
	int64_t i;
	double d; /* always set, rounded where i does not fit a double */
};

struct parser {
	const char *text; /* NUL-terminated */
	size_t at;
	unsigned depth;
	char error[160]; /* empty: none yet */
	size_t error_at;
};

static struct number sum(struct parser *p);

static struct number whole(int64_t i)
{
	return (struct number){true, i, (double)i};
}

static struct number real(double d)
{
	return (struct number){false, 0, d};
}

/* The first error is kept: those that follow are its consequences. */
static struct number fail_at(struct parser *p, size_t at, const char *text)
{
	if (!p->error[0]) {
		snprintf(p->error, sizeof(p->error), "%s", text);
		p->error_at = at;
	}
	return whole(0);
}

static void skip_space(struct parser *p)
{
	while (p->text[p->at] == ' ' || p->text[p->at] == '\t' || p->text[p->at] == '\n' || p->text[p->at] == '\r')
		p->at++;
}

static bool take(struct parser *p, char c)
{
	skip_space(p);
	if (p->error[0] || p->text[p->at] != c)
		return false;
	p->at++;
	return true;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

/* ---- operators ---- */

static struct number add(struct number a, struct number b)
{
	int64_t i;

	if (a.whole && b.whole && !__builtin_add_overflow(a.i, b.i, &i))
		return whole(i);
	return real(a.d + b.d);
}

static struct number negate(struct number a)
{
	if (a.whole && a.i != INT64_MIN)
		return whole(-a.i);
	return real(-a.d);
}

static struct number multiply(struct number a, struct number b)
{
	int64_t i;

	if (a.whole && b.whole && !__builtin_mul_overflow(a.i, b.i, &i))
		return whole(i);
	return real(a.d * b.d);
}

static struct number divide(struct parser *p, size_t at, struct number a, struct number b)
{
	if (b.d == 0)
		return fail_at(p, at, "division by zero");
	if (a.whole && b.whole && !(a.i == INT64_MIN && b.i == -1) && a.i % b.i == 0)
		return whole(a.i / b.i);
	return real(a.d / b.d);
}

/* The remainder has the sign of the left side, as in C. */
static struct number modulo(struct parser *p, size_t at, struct number a, struct number b)
{
	if (b.d == 0)
		return fail_at(p, at, "remainder of a division by zero");
	if (a.whole && b.whole)
		return whole(b.i == -1 ? 0 : a.i % b.i);
	return real(fmod(a.d, b.d));
}

static bool whole_power(int64_t base, int64_t exponent, int64_t *out)
{
	int64_t result = 1;

	if (exponent < 0)
		return false;
	while (exponent > 0) {
		if (exponent & 1 && __builtin_mul_overflow(result, base, &result))
			return false;
		exponent >>= 1;
		if (exponent > 0 && __builtin_mul_overflow(base, base, &base))
			return false;
	}
	*out = result;
	return true;
}

static struct number power(struct parser *p, size_t at, struct number a, struct number b)
{
	int64_t i;

	if (a.whole && b.whole && whole_power(a.i, b.i, &i))
		return whole(i);
	if (a.d == 0 && b.d < 0)
		return fail_at(p, at, "division by zero");
	return real(pow(a.d, b.d));
}

/* ---- functions ---- */

static const struct {
	const char *name;
	double (*fn)(double);
} functions[] = {
	{"sqrt", sqrt}, {"ln", log}, {"log", log10}, {"exp", exp}, {"sin", sin}, {"cos", cos}, {"tan", tan},
};

/* Those that leave a whole number as it is. */
static const struct {
	const char *name;
	double (*fn)(double);
} roundings[] = {{"floor", floor}, {"ceil", ceil}, {"round", round}};

static bool name_is(struct str name, const char *z)
{
	return str_eq_c(name, z);
}

static struct number fold(struct number a, struct number b, bool want_larger)
{
	bool b_larger = a.whole && b.whole ? b.i > a.i : b.d > a.d;

	return b_larger == want_larger ? b : a;
}

static struct number to_whole(double d)
{
	return fabs(d) < 9e18 ? whole((int64_t)d) : real(d);
}

static struct number call_one(struct parser *p, struct str name, size_t at, struct number x)
{
	if (name_is(name, "abs"))
		return x.d < 0 ? negate(x) : x;
	for (size_t i = 0; i < sizeof(roundings) / sizeof(roundings[0]); i++)
		if (name_is(name, roundings[i].name))
			return x.whole ? x : to_whole(roundings[i].fn(x.d));
	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++)
		if (name_is(name, functions[i].name)) {
			double d = functions[i].fn(x.d);

			if (!isfinite(d))
				return fail_at(p, at, "the function has no value there");
			return real(d);
		}
	return fail_at(p, at, "there is no such function");
}

static struct number call(struct parser *p, struct str name, size_t at)
{
	bool folds = name_is(name, "min") || name_is(name, "max");
	struct number x = sum(p);

	while (take(p, ',')) {
		struct number y = sum(p);

		if (!folds)
			return fail_at(p, at, "this function takes one argument");
		x = fold(x, y, name_is(name, "max"));
	}
	if (!take(p, ')'))
		return fail_at(p, p->at, "a closing parenthesis is missing");
	return folds ? x : call_one(p, name, at, x);
}

/* ---- grammar ---- */

static struct number number(struct parser *p)
{
	size_t from = p->at;
	bool fraction = false;
	char *end;

	while (is_digit(p->text[p->at]))
		p->at++;
	if (p->text[p->at] == '.') {
		fraction = true;
		p->at++;
		while (is_digit(p->text[p->at]))
			p->at++;
	}
	if (p->at == from + 1 && fraction)
		return fail_at(p, from, "a number is expected");
	if (p->text[p->at] == 'e' || p->text[p->at] == 'E') {
		size_t digits = p->at + 1 + (p->text[p->at + 1] == '+' || p->text[p->at + 1] == '-');

		if (is_digit(p->text[digits])) {
			fraction = true;
			for (p->at = digits; is_digit(p->text[p->at]);)
				p->at++;
		}
	}
	if (is_letter(p->text[p->at]) || p->text[p->at] == '.')
		return fail_at(p, p->at, "an operator is expected");
	if (!fraction) {
		int64_t i = 0;
		size_t at = from;

		while (at < p->at && !__builtin_mul_overflow(i, 10, &i) && !__builtin_add_overflow(i, p->text[at] - '0', &i))
			at++;
		if (at == p->at)
			return whole(i);
	}
	return real(strtod(p->text + from, &end));
}

static struct number named(struct parser *p)
{
	size_t from = p->at;
	struct str name;

	while (is_letter(p->text[p->at]) || is_digit(p->text[p->at]))
		p->at++;
	name = str_of(p->text + from, p->at - from);
	if (take(p, '('))
		return call(p, name, from);
	if (name_is(name, "pi"))
		return real(M_PI);
	if (name_is(name, "e"))
		return real(M_E);
	return fail_at(p, from, "there is no such name");
}

static struct number atom(struct parser *p)
{
	struct number x;
	char c;

	skip_space(p);
	c = p->text[p->at];
	if (is_digit(c) || c == '.')
		return number(p);
	if (is_letter(c))
		return named(p);
	if (!take(p, '('))
		return fail_at(p, p->at, c ? "a number is expected" : "the expression ends too early");
	x = sum(p);
	if (!take(p, ')'))
		return fail_at(p, p->at, "a closing parenthesis is missing");
	return x;
}

static struct number unary(struct parser *p)
{
	struct number x;
	size_t at;

	if (++p->depth > DEPTH_MAX) {
		x = fail_at(p, p->at, "the expression is nested too deeply");
	} else if (take(p, '-')) {
		x = negate(unary(p));
	} else if (take(p, '+')) {
		x = unary(p);
	} else {
		x = atom(p);
		skip_space(p);
		at = p->at;
		if (take(p, '^'))
			x = power(p, at, x, unary(p));
	}
	p->depth--;
	return x;
}

static struct number product(struct parser *p)
{
	struct number x = unary(p);

	while (!p->error[0]) {
		size_t at;

		skip_space(p);
		at = p->at;
		if (take(p, '*'))
			x = multiply(x, unary(p));
		else if (take(p, '/'))
			x = divide(p, at, x, unary(p));
		else if (take(p, '%'))
			x = modulo(p, at, x, unary(p));
		else
			break;
	}
	return x;
}

static struct number sum(struct parser *p)
{
	struct number x = product(p);

	while (!p->error[0]) {
		if (take(p, '+'))
			x = add(x, product(p));
		else if (take(p, '-'))
			x = add(x, negate(product(p)));
		else
			break;
	}
	return x;
}

/* The shortest text that reads back as the same number; whole ones without a fraction. */
static void write_number(struct buf *out, struct number x)
{
	char text[40];

	if (x.whole) {
		buf_printf(out, "%lld", (long long)x.i);
		return;
	}
	if (x.d == 0) {
		buf_append_c(out, "0");
		return;
	}
	if (floor(x.d) == x.d && fabs(x.d) < 1e21) {
		buf_printf(out, "%.0f", x.d);
		return;
	}
	for (int digits = 15; digits <= 17; digits++) {
		snprintf(text, sizeof(text), "%.*g", digits, x.d);
		if (strtod(text, NULL) == x.d)
			break;
	}
	buf_append_c(out, text);
}

static struct number evaluate(struct parser *p)
{
	struct number x;

	skip_space(p);
	if (!p->text[p->at])
		return fail_at(p, p->at, "the expression is empty");
	x = sum(p);
	skip_space(p);
	if (!p->error[0] && p->text[p->at])
		return fail_at(p, p->at,
		               p->text[p->at] == ')' ? "there is a closing parenthesis too many" : "an operator is expected");
	if (!p->error[0] && isnan(x.d))
		return fail_at(p, 0, "the result is not a number");
	if (!p->error[0] && isinf(x.d))
		return fail_at(p, 0, "the result is too large");
	return x;
}

bool calculator_evaluate(struct str expression, struct buf *out)
{
	char text[EXPRESSION_MAX + 1];
	struct parser p = {.text = text};
	struct number x;

	if (expression.n > EXPRESSION_MAX) {
		buf_printf(out, "the expression is longer than %d bytes", EXPRESSION_MAX);
		return false;
	}
	if (expression.n > 0)
		memcpy(text, expression.p, expression.n);
	text[expression.n] = 0;
	x = evaluate(&p);
	if (p.error[0])
		buf_printf(out, "%s (at character %zu)", p.error, p.error_at + 1);
	else
		write_number(out, x);
	return !p.error[0];
}

enum tool_status calculator_tool(const json_t *arguments, struct buf *result)
{
	const json_t *expression = json_object_get(arguments, "expression");
	const char *unknown = tool_unknown_argument(arguments, "expression");
	struct buf text = {0};
	bool ok = false;

	if (unknown)
		buf_printf(&text, "calculator knows no argument \"%s\", only \"expression\"", unknown);
	else if (!json_is_string(expression))
		buf_append_c(&text, "calculator needs \"expression\", a string such as \"2 + 3 * 4\"");
	else
		ok = calculator_evaluate(str_of(json_string_value(expression), json_string_length(expression)), &text);
	if (ok)
		buf_append_str(result, buf_str(&text));
	else
		(void)tool_refuse(result, buf_str(&text));
	buf_finish(&text);
	return ok ? TOOL_OK : TOOL_ERROR;
}
