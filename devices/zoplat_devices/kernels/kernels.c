/* Draw, scale and add in registers: the noise of docs/explanation/noise.md and the moves of zoplat/space.py.
 *
 * The numbers are those of noise.py, bit for bit, provided that the compiler fuses no product and sum by itself
 * (-ffp-contract=off). */

#include <stdint.h>

#define GROUP 512
#define HALF 256
#define QUARTER 128

/* The long dependency chains of the noise need several vectors in flight. */
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define INTERLEAVE _Pragma("clang loop interleave_count(2)")
#else
#define INTERLEAVE
#endif

enum { NORMAL, SIGN, UNIFORM, LOW_RANK, VALUES, COARSE };
enum { FLOAT32, BFLOAT16, FLOAT16, TO_BFLOAT16, TO_FLOAT16, SUM }; /* TO_: from float32, apart; SUM: terms alone */

typedef struct {            /* coefficient times one random vector */
    int32_t kind;
    int32_t rank;           /* of LOW_RANK */
    uint32_t key0, key1;    /* of the stream */
    float coefficient;
    int32_t columns;
    int64_t u;              /* LOW_RANK: (rows, rank) of the whole block; VALUES: entries, numbered as the block's */
    int64_t v;              /* LOW_RANK: (rank, columns) */
    int64_t scale;          /* entries that multiply the vector, or none */
    int64_t by_root;        /* whether they divide it by their roots instead */
} Term;

typedef struct {            /* entries start to stop of one block: source -> target <- keep * source + terms */
    int64_t source;
    int64_t target;         /* from the base of the call */
    int64_t start, stop;
    int32_t line;           /* of terms */
    int32_t dtype;
} Job;

typedef struct {            /* what the jobs of one call share */
    const Term *terms;      /* `most` of them a line */
    const int32_t *counts;  /* terms of each line */
    int64_t base;           /* added to all targets */
    int32_t most;
    float keep;
    int32_t is_stochastic;      /* whether 16-bit results are rounded by the stream of the term after the last of a line */
} Call;

static inline float as_float(uint32_t bits) { union { uint32_t bits; float value; } c = { bits }; return c.value; }
static inline uint32_t as_bits(float value) { union { float value; uint32_t bits; } c = { value }; return c.bits; }

static inline uint32_t word(uint32_t counter, uint32_t high, uint32_t key0, uint32_t key1) {
    uint32_t x = (counter * 0x9E3779B9u + key0) ^ high;
    x = (x ^ (x >> 16)) * 0x21F0AAADu;
    x = ((x ^ (x >> 15)) + key1) * 0x735A2D97u;
    x = (x ^ (x >> 15)) * 0x31848BABu;
    return x ^ (x >> 14);
}

/* What all words of a group share: the counter's upper half and the second key. */
static inline uint32_t high_part(uint64_t counter, uint32_t key1) {
    return ((uint32_t)(counter >> 32) * 0x85EBCA6Bu) ^ key1;
}

/* A second word from a first one, for numbers that come in pairs. */
static inline uint32_t second(uint32_t first, uint32_t key1) {
    uint32_t x = first + key1;
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    return x ^ (x >> 16);
}

/* a * b + c with one rounding, wherever the definition says so and nowhere else. */
#define FMA(a, b, c) __builtin_fmaf(a, b, c)

/* Every law: out <- c * z for the first term of a sum, out <- out + c * z for the others. */
#define PUT(place, z) (place) = add ? (place) + c * (z) : c * (z)

/* In four short loops: one long one would wait for its own results most of the time. */
ALWAYS_INLINE void normals(float *out, uint64_t group, const Term *term, float c, int add) {
    uint64_t counter = group * HALF;
    uint32_t base = (uint32_t)counter, key0 = term->key0, key1 = term->key1, high = high_part(counter, key1);
    uint32_t words[HALF];
    float radii[HALF];
    INTERLEAVE
    for (int i = 0; i < HALF; i++) words[i] = word(base + i, high, key0, key1);
    INTERLEAVE
    for (int i = 0; i < HALF; i++) {
        uint32_t bits = as_bits((float)(words[i] | 1u)) - 0x4F3504F3u;
        float exponent = (float)((int32_t)bits >> 23);
        float m = as_float((bits & 0x007FFFFFu) + 0x3F3504F3u) - 1.0f;
        float p = FMA(-0.14106312f, m, 0.22070729f);
        p = FMA(p, m, -0.25458856f);
        p = FMA(p, m, 0.33262362f);
        p = FMA(p, m, -0.49987507f);
        p = FMA(p, m * m, m);
        radii[i] = __builtin_sqrtf(FMA(exponent, -0.69314718f, -p));
    }
    INTERLEAVE
    for (int i = 0; i < HALF; i++) words[i] = second(words[i], key1);
    INTERLEAVE
    for (int i = 0; i < HALF; i++) {
        uint32_t b = words[i];
        float angle = (float)(int32_t)b * 3.6572952e-10f;
        float square = angle * angle;
        float cosine = FMA(-0.00135978f, square, 0.04165629f);
        cosine = FMA(cosine, square, -0.49999895f);
        cosine = FMA(cosine, square, 1.0f);
        float sine = FMA(FMA(0.00815299f, square, -0.16662834f), square * angle, angle);
        PUT(out[i], as_float(as_bits(radii[i] * (cosine - sine)) ^ (b << 31)));
        PUT(out[HALF + i], as_float(as_bits(radii[i] * (cosine + sine)) ^ ((b << 30) & 0x80000000u)));
    }
}

ALWAYS_INLINE void signs(float *out, uint64_t group, const Term *term, float c, int add) {
    uint64_t counter = group * (GROUP / 32);
    uint32_t base = (uint32_t)counter, high = high_part(counter, term->key1);
    for (int k = 0; k < GROUP / 32; k++) {
        uint32_t w = word(base + k, high, term->key0, term->key1);
        for (int j = 0; j < 32; j++) PUT(out[32 * k + j], as_float(0x3F800000u ^ (((w >> j) & 1u) << 31)));
    }
}

ALWAYS_INLINE void uniforms(float *out, uint64_t group, const Term *term, float c, int add) {
    uint64_t counter = group * GROUP;
    uint32_t base = (uint32_t)counter, key0 = term->key0, key1 = term->key1, high = high_part(counter, key1);
    INTERLEAVE
    for (int i = 0; i < GROUP; i++)
        PUT(out[i], (float)(word(base + i, high, key0, key1) >> 8) * 5.9604644775390625e-8f);
}

/* Half a word each: a group takes the lower halves of its first words, the upper ones, and both of the second words. */
ALWAYS_INLINE void halves(uint32_t *out, uint64_t group, const Term *term) {
    uint64_t counter = group * QUARTER;
    uint32_t base = (uint32_t)counter, key0 = term->key0, key1 = term->key1, high = high_part(counter, key1);
    INTERLEAVE
    for (int i = 0; i < QUARTER; i++) {
        uint32_t a = word(base + i, high, key0, key1), b = second(a, key1);
        out[i] = a & 0xFFFFu;
        out[QUARTER + i] = a >> 16;
        out[2 * QUARTER + i] = b & 0xFFFFu;
        out[3 * QUARTER + i] = b >> 16;
    }
}

/* (k + 1/2) / 65536, exact. */
static inline float share(uint32_t k) { return (float)k * 1.52587890625e-5f + 7.62939453125e-6f; }

ALWAYS_INLINE void coarse(float *out, uint64_t group, const Term *term, float c, int add) {
    uint32_t k[GROUP];
    halves(k, group, term);
    for (int i = 0; i < GROUP; i++) PUT(out[i], share(k[i]));
}

static inline const float *at(int64_t address) { return (const float *)(intptr_t)address; }

/* Rows of U times V, added up in the order of their columns; z holds one stretch of a row. */
ALWAYS_INLINE void outer(float *out, int64_t first, int64_t last, const Term *term, float c, int add) {
    float z[GROUP];
    while (first < last) {
        int64_t row = first / term->columns, column = first % term->columns;
        int64_t n = term->columns - column < last - first ? term->columns - column : last - first;
        const float *u = at(term->u) + row * term->rank, *v = at(term->v) + column;
        if (term->rank == 1) {
            for (int64_t j = 0; j < n; j++) PUT(out[j], u[0] * v[j]);
        } else if (term->rank == 2) {
            const float *v1 = v + term->columns;
            float u0 = u[0], u1 = u[1];
            for (int64_t j = 0; j < n; j++) PUT(out[j], u0 * v[j] + u1 * v1[j]);
        } else {
            for (int64_t j = 0; j < n; j++) z[j] = u[0] * v[j];
            for (int32_t k = 1; k < term->rank; k++) {
                float uk = u[k];
                v += term->columns;
                for (int64_t j = 0; j < n; j++) z[j] = z[j] + uk * v[j];
            }
            for (int64_t j = 0; j < n; j++) PUT(out[j], z[j]);
        }
        out += n;
        first += n;
    }
}

ALWAYS_INLINE void values(float *out, int64_t first, int64_t last, const Term *term, float c, int add) {
    for (int64_t i = first; i < last; i++) PUT(out[i - first], at(term->u)[i]);
}

/* Entries first to last of a term, at their places within the group that holds them. */
#define DRAW(add)                                                                                   \
    switch (term->kind) {                                                                           \
    case NORMAL: normals(sum, first / GROUP, term, c, add); break;                                  \
    case SIGN: signs(sum, first / GROUP, term, c, add); break;                                      \
    case UNIFORM: uniforms(sum, first / GROUP, term, c, add); break;                                \
    case COARSE: coarse(sum, first / GROUP, term, c, add); break;                                   \
    case LOW_RANK: outer(sum + first % GROUP, first, last, term, c, add); break;                    \
    default: values(sum + first % GROUP, first, last, term, c, add);                                \
    }

static void draw_plain(float *restrict sum, int64_t first, int64_t last, const Term *restrict term, float c, int adds) {
    if (adds) DRAW(1)
    else DRAW(0)
}

/* The vector times its scale, rounded before the coefficient comes. */
static void draw_scaled(float *restrict sum, int64_t first, int64_t last, const Term *restrict term, int add) {
    float z[GROUP], c = term->coefficient;
    const float *restrict s = at(term->scale) + first, *restrict from = z + first % GROUP;
    float *restrict to = sum + first % GROUP;
    draw_plain(z, first, last, term, 1.0f, 0);
    if (term->by_root) for (int64_t i = 0; i < last - first; i++) PUT(to[i], from[i] * (1.0f / __builtin_sqrtf(s[i])));
    else for (int64_t i = 0; i < last - first; i++) PUT(to[i], from[i] * s[i]);
}

static void draw(float *restrict sum, int64_t first, int64_t last, const Term *restrict term, int adds) {
    if (term->scale) draw_scaled(sum, first, last, term, adds);
    else draw_plain(sum, first, last, term, term->coefficient, adds);
}

static inline float from_half(uint16_t h) { union { uint16_t bits; _Float16 value; } c = { h }; return (float)c.value; }
static inline uint16_t to_half(float f) { union { _Float16 value; uint16_t bits; } c = { (_Float16)f }; return c.bits; }
static inline uint16_t to_bfloat(float f) {
    uint32_t b = as_bits(f);
    return (b & 0x7FFFFFFFu) > 0x7F800000u ? (uint16_t)((b >> 16) | 64u) : (uint16_t)((b + 0x7FFFu + ((b >> 16) & 1u)) >> 16);
}

/* The neighbours of a result, by chance: see zoplat/rounding.py. The halves k of words are the chances. */
static inline uint16_t stochastic_bfloat(float f, uint32_t k) {
    uint32_t b = as_bits(f), size = b & 0x7FFFFFFFu;
    uint32_t away = (k < (b & 0xFFFFu)) & (size < 0x7F7F0000u);
    return (uint16_t)(((b >> 16) + away) | (uint32_t)(size > 0x7F800000u) << 6);
}
static inline uint16_t stochastic_half(float f, uint32_t k) {
    uint32_t b = as_bits(f), size = b & 0x7FFFFFFFu;
    uint32_t inside = size < 0x477FE000u ? size : 0u, exponent = inside & 0x7F800000u;
    uint32_t gap = (exponent > 0x38800000u ? exponent : 0x38800000u) - (10u << 23);
    float count = as_float(inside) * as_float(0x7F000000u - gap);
    float steps = (float)(int32_t)count;
    steps += count - steps > share(k) ? 1.0f : 0.0f;
    uint32_t rounded = as_bits(steps * as_float(gap));
    rounded = size < 0x477FE000u ? rounded : size < 0x7F800000u ? 0x477FE000u : size;
    return to_half(as_float(rounded | (b & 0x80000000u)));
}

static inline float same(float f) { return f; }
static inline float from_bfloat(uint16_t b) { return as_float((uint32_t)b << 16); }

/* target <- keep * source + sum, in place or apart; telling the compiler which is what lets it use vectors. */
#define IN_PLACE(type, load, ...)                                                                   \
    {                                                                                               \
        type *t = (type *)target + first;                                                           \
        for (int64_t i = 0; i < n; i++) { float f = keep * load(t[i]) + sum[i]; t[i] = __VA_ARGS__; } \
    }
#define APART(from, type, load, save)                                                               \
    {                                                                                               \
        const from *restrict w = (const from *)source + first;                                      \
        type *restrict t = (type *)target + first;                                                  \
        for (int64_t i = 0; i < n; i++) t[i] = save(keep * load(w[i]) + sum[i]);                    \
    }

static void store(
    int32_t dtype, intptr_t source, intptr_t target, float keep, int64_t first, int64_t n, const float *restrict sum
) {
    int here = source == target;
    switch (dtype) {
    case FLOAT32: if (here) IN_PLACE(float, same, f) else APART(float, float, same, same) break;
    case BFLOAT16:
        if (here) IN_PLACE(uint16_t, from_bfloat, to_bfloat(f)) else APART(uint16_t, uint16_t, from_bfloat, to_bfloat) break;
    case FLOAT16:
        if (here) IN_PLACE(uint16_t, from_half, to_half(f)) else APART(uint16_t, uint16_t, from_half, to_half) break;
    case TO_BFLOAT16: APART(float, uint16_t, same, to_bfloat) break;
    case TO_FLOAT16: APART(float, uint16_t, same, to_half) break;
    default: for (int64_t i = 0; i < n; i++) ((float *)target)[first + i] = sum[i];
    }
}

/* The same in place, for 16-bit weights; k holds the chances. */
static void store_by_chance(
    int32_t dtype, intptr_t target, float keep, int64_t first, int64_t n, const float *restrict sum,
    const uint32_t *restrict k
) {
    if (dtype == BFLOAT16) IN_PLACE(uint16_t, from_bfloat, stochastic_bfloat(f, k[i]))
    else IN_PLACE(uint16_t, from_half, stochastic_half(f, k[i]))
}

static void run(const Job *job, const Call *call) {
    float sum[GROUP];
    uint32_t chances[GROUP];
    int wide = job->dtype != BFLOAT16 && job->dtype != FLOAT16;
    intptr_t source = (intptr_t)job->source, target = (intptr_t)(job->target + call->base);
    const Term *terms = call->terms + (int64_t)job->line * call->most;
    int32_t count = call->counts[job->line];
    for (int i = 0; i < GROUP; i++) sum[i] = 0.0f;
    for (int64_t first = job->start; first < job->stop;) {
        int64_t last = (first / GROUP + 1) * GROUP;
        if (last > job->stop) last = job->stop;
        const char *ahead = (const char *)source + (first + 2 * GROUP) * (wide ? 4 : 2);
        for (int i = 0; i < GROUP * 4; i += 64) __builtin_prefetch(ahead + i, 1);
        for (int32_t k = 0; k < count; k++) draw(sum, first, last, terms + k, k);
        const float *from = sum + first % GROUP;
        if (call->is_stochastic && !wide) {
            halves(chances, first / GROUP, terms + count);
            store_by_chance(job->dtype, target, call->keep, first, last - first, from, chances + first % GROUP);
        } else {
            store(job->dtype, source, target, call->keep, first, last - first, from);
        }
        first = last;
    }
}

/* Take jobs until none is left; called by several threads with one shared counter. */
void zoplat_run(const Job *jobs, int32_t count, const Call *call, int32_t *next) {
    for (;;) {
        int32_t i = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
        if (i >= count) return;
        run(jobs + i, call);
    }
}

#define REGISTERS 24

enum { COPY, ADD, SUBTRACT, MULTIPLY, DIVIDE, ROOT, SIZE, ABOVE, AT_LEAST, LEAST, MOST };

typedef struct {            /* register `to` <- a operation b, for every entry of a group */
    int32_t operation;
    int32_t to, a, b;       /* b: a register, or none (-1) and `c` in its place */
    float c;
    int32_t turn;           /* whether b comes first */
} Step;

typedef struct {            /* a rule on one block */
    const Call *moves;      /* what is performed on theta before */
    const Call *direction;  /* its entries are register 1; those of theta register 0 */
    const Step *steps;
    const int64_t *arrays;  /* of buffers, whose entries are registers 2 on; 0 for one that is not there */
    int32_t count;          /* of steps */
    int32_t held;           /* buffers */
    uint32_t written;       /* a bit for each register that lasts */
} Rule;

/* A register may be an operand and the result at once: entry by entry that does no harm. */
#ifdef __clang__
#define APIECE _Pragma("clang loop vectorize(assume_safety)")
#else
#define APIECE _Pragma("GCC ivdep")
#endif
#define EACH(result) { APIECE for (int i = 0; i < GROUP; i++) { float x = a[i], y = b[i]; (void)y; to[i] = result; } break; }

static void step(float (*restrict registers)[GROUP], const Step *step) {
    float constant[GROUP], *to = registers[step->to];
    const float *a = registers[step->a], *b = constant;
    if (step->b >= 0) b = registers[step->b];
    else for (int i = 0; i < GROUP; i++) constant[i] = step->c;
    if (step->turn) { const float *first = b; b = a; a = first; }
    switch (step->operation) {
    case COPY: EACH(x)
    case ADD: EACH(x + y)
    case SUBTRACT: EACH(x - y)
    case MULTIPLY: EACH(x * y)
    case DIVIDE: EACH(x / y)
    case ROOT: EACH(__builtin_sqrtf(x))
    case SIZE: EACH(__builtin_fabsf(x))
    case ABOVE: EACH(x > y ? 1.0f : 0.0f)
    case AT_LEAST: EACH(x >= y ? 1.0f : 0.0f)
    case LEAST: EACH(x < y ? y : x)
    default: EACH(x > y ? y : x)
    }
}

static void rule(const Job *job, const Rule *rule) {
    float registers[REGISTERS][GROUP], sum[GROUP];
    float *theta = (float *)(intptr_t)job->source, keep = rule->moves->keep;
    int32_t moves = rule->moves->counts[0], terms = rule->direction->counts[0];
    for (int k = 0; k < REGISTERS; k++) for (int i = 0; i < GROUP; i++) registers[k][i] = 0.0f;
    for (int64_t first = job->start; first < job->stop;) {
        int64_t last = (first / GROUP + 1) * GROUP;
        if (last > job->stop) last = job->stop;
        int64_t n = last - first;
        const float *from = sum + first % GROUP;
        for (int32_t k = 0; k < moves; k++) draw(sum, first, last, rule->moves->terms + k, k);
        if (moves) for (int64_t i = 0; i < n; i++) registers[0][i] = keep * theta[first + i] + from[i];
        else for (int64_t i = 0; i < n; i++) registers[0][i] = keep * theta[first + i];
        for (int32_t k = 0; k < terms; k++) draw(sum, first, last, rule->direction->terms + k, k);
        for (int64_t i = 0; i < n; i++) registers[1][i] = terms ? from[i] : 0.0f;
        for (int32_t k = 0; k < rule->held; k++)
            if (rule->arrays[k]) for (int64_t i = 0; i < n; i++) registers[2 + k][i] = at(rule->arrays[k])[first + i];
        for (int32_t k = 0; k < rule->count; k++) step(registers, rule->steps + k);
        for (int64_t i = 0; i < n; i++) theta[first + i] = registers[0][i];
        for (int32_t k = 0; k < rule->held; k++) {
            float *array = (float *)(intptr_t)rule->arrays[k];
            if (rule->written >> (2 + k) & 1) for (int64_t i = 0; i < n; i++) array[first + i] = registers[2 + k][i];
        }
        first = last;
    }
}

/* The same for a rule. */
void zoplat_rule(const Job *jobs, int32_t count, const Rule *shared, int32_t *next) {
    for (;;) {
        int32_t i = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
        if (i >= count) return;
        rule(jobs + i, shared);
    }
}

/* Numbers first to first + count of a stream. */
void zoplat_numbers(float *out, int32_t kind, uint32_t key0, uint32_t key1, int64_t first, int64_t count) {
    float z[GROUP];
    Term term = { kind, 0, key0, key1, 1.0f, 0, 0, 0, 0, 0 };
    for (int64_t stop = first + count; first < stop;) {
        int64_t last = (first / GROUP + 1) * GROUP, from = first % GROUP;
        if (last > stop) last = stop;
        draw(z, first, last, &term, 0);
        for (int64_t i = 0; i < last - first; i++) *out++ = z[from + i];
        first = last;
    }
}
