/* Fused kernels that draw, scale and add in registers: the noise of docs/explanation/noise.md and the updates of
 * zoplat/space/backend.py, which are the definition.
 *
 * The random numbers are those of noise.py, bit for bit, provided that the compiler fuses no product and sum by
 * itself (-ffp-contract=off). All of it is one file because that is one call of a compiler, at hand or in a wheel. */

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

enum { NORMAL, SIGN, UNIFORM, LOW_RANK, VALUES, COARSE, COMPUTED };
#define STREAMS 4
/* Conversions; TO_: out of place, from float32; SUM: the terms alone, in float32; CODES: 4 bits and their rest, in place;
 * PROBED: the 4 bits alone, out of place. 6 is of kernels for a GPU. */
enum { FLOAT32, BFLOAT16, FLOAT16, TO_BFLOAT16, TO_FLOAT16, SUM, CODES = 7, PROBED };

typedef struct {            /* coefficient times one random vector */
    int32_t kind;
    int32_t rank;           /* of LOW_RANK; COMPUTED: number of the law */
    uint32_t keys[STREAMS][2]; /* of the streams; all but COMPUTED have one */
    float coefficient;
    int32_t columns;        /* COMPUTED: number of steps */
    int64_t u;              /* address; LOW_RANK: (rows, rank) of the whole block; VALUES: entries of the block;
                               COMPUTED: steps, whose result is in register 0 */
    int64_t v;              /* address; LOW_RANK: (rank, columns) */
    int64_t scale;          /* address of entries s that multiply the vector; 0 for none */
    int64_t inverse_root;   /* whether 1 / sqrt(s) multiplies it instead */
} Term;

typedef struct {            /* entries start to stop of one block: target <- factor * source + sum of terms */
    int64_t source;         /* address; CODES: of the rest */
    int64_t target;         /* address, relative to the origin of the call */
    int64_t start, stop;
    int32_t line;           /* of the table of terms */
    int32_t dtype;          /* one of the conversions above */
    int64_t columns;        /* of the block; CODES and PROBED only */
} Job;

typedef struct {            /* what the jobs of one call share */
    const Term *terms;      /* table of lines, `stride` terms each */
    const int32_t *counts;  /* terms in use of each line */
    int64_t origin;         /* added to all target addresses */
    int32_t stride;
    float factor;           /* of the source */
    int32_t is_stochastic;  /* whether 16-bit results are rounded stochastically, with the stream that the term after the
                               last one in use names */
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

/* Common to all words of a group: the counter's upper half and the second key. */
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

/* For every law: out <- c * z for the first term of a sum, out <- out + c * z for the others. */
#define PUT(place, z) (place) = add ? (place) + c * (z) : c * (z)

/* Four short loops: one long loop would be bound by the latency of its dependency chain. */
ALWAYS_INLINE void normals(float *out, uint64_t group, const Term *term, float c, int add) {
    uint64_t counter = group * HALF;
    uint32_t low = (uint32_t)counter, key0 = term->keys[0][0], key1 = term->keys[0][1], high = high_part(counter, key1);
    uint32_t words[HALF];
    float radii[HALF];
    INTERLEAVE
    for (int i = 0; i < HALF; i++) words[i] = word(low + i, high, key0, key1);
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
    uint32_t low = (uint32_t)counter, high = high_part(counter, term->keys[0][1]);
    for (int k = 0; k < GROUP / 32; k++) {
        uint32_t w = word(low + k, high, term->keys[0][0], term->keys[0][1]);
        for (int j = 0; j < 32; j++) PUT(out[32 * k + j], as_float(0x3F800000u ^ (((w >> j) & 1u) << 31)));
    }
}

ALWAYS_INLINE void uniforms(float *out, uint64_t group, const Term *term, float c, int add) {
    uint64_t counter = group * GROUP;
    uint32_t low = (uint32_t)counter, key0 = term->keys[0][0], key1 = term->keys[0][1], high = high_part(counter, key1);
    INTERLEAVE
    for (int i = 0; i < GROUP; i++)
        PUT(out[i], (float)(word(low + i, high, key0, key1) >> 8) * 5.9604644775390625e-8f);
}

/* 16 random bits for each entry: the lower halves of a group's words, their upper halves, then both halves of the
 * second words. */
ALWAYS_INLINE void halves(uint32_t *out, uint64_t group, const Term *term) {
    uint64_t counter = group * QUARTER;
    uint32_t low = (uint32_t)counter, key0 = term->keys[0][0], key1 = term->keys[0][1], high = high_part(counter, key1);
    INTERLEAVE
    for (int i = 0; i < QUARTER; i++) {
        uint32_t a = word(low + i, high, key0, key1), b = second(a, key1);
        out[i] = a & 0xFFFFu;
        out[QUARTER + i] = a >> 16;
        out[2 * QUARTER + i] = b & 0xFFFFu;
        out[3 * QUARTER + i] = b >> 16;
    }
}

/* (k + 1/2) / 65536, exact: 16 random bits as a number in (0, 1). */
static inline float share(uint32_t k) { return (float)k * 1.52587890625e-5f + 7.62939453125e-6f; }

ALWAYS_INLINE void coarse(float *out, uint64_t group, const Term *term, float c, int add) {
    uint32_t k[GROUP];
    halves(k, group, term);
    for (int i = 0; i < GROUP; i++) PUT(out[i], share(k[i]));
}

static inline const float *at(int64_t address) { return (const float *)(intptr_t)address; }

/* Entries of U V, summed over the rank in order; z holds a part of one row. */
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

#define REGISTERS 24

enum {
    COPY, ADD, SUBTRACT, MULTIPLY, DIVIDE, ROOT, ABSOLUTE, FRACTION, GREATER, GREATER_OR_EQUAL, MAXIMUM, MINIMUM, DRAW
};

typedef struct {            /* register `to` <- a operation b, for every entry of a group; DRAW: numbers of stream a, kind b */
    int32_t operation;
    int32_t to, a, b;       /* registers; where b is -1, the second operand is the constant c */
    float c;
    int32_t is_reversed;    /* whether the second operand comes first */
} Step;

/* What is above the next whole number below. Numbers from 2^23 on are whole, and some don't fit an int32_t. */
static inline float fraction(float x) {
    float inside = __builtin_fabsf(x) < 8388608.0f ? x : 0.0f, rest = inside - (float)(int32_t)inside;
    return rest + (rest < 0.0f ? 1.0f : 0.0f);
}

/* A register may be an operand and the result at once: each entry is read before it is written. */
#ifdef __clang__
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif
#define EACH(left, right, result)                                                                   \
    {                                                                                               \
        INDEPENDENT for (int i = 0; i < GROUP; i++) {                                               \
            float x = left, y = right;                                                              \
            (void)y;                                                                                \
            to[i] = result;                                                                         \
        }                                                                                           \
        break;                                                                                      \
    }
#define OPERATIONS(left, right)                                                                     \
    switch (step->operation) {                                                                      \
    case COPY: EACH(left, right, x)                                                                 \
    case ADD: EACH(left, right, x + y)                                                              \
    case SUBTRACT: EACH(left, right, x - y)                                                         \
    case MULTIPLY: EACH(left, right, x * y)                                                         \
    case DIVIDE: EACH(left, right, x / y)                                                           \
    case ROOT: EACH(left, right, __builtin_sqrtf(x))                                                \
    case ABSOLUTE: EACH(left, right, __builtin_fabsf(x))                                            \
    case FRACTION: EACH(left, right, fraction(x))                                                   \
    case GREATER: EACH(left, right, x > y ? 1.0f : 0.0f)                                            \
    case GREATER_OR_EQUAL: EACH(left, right, x >= y ? 1.0f : 0.0f)                                  \
    case MAXIMUM: EACH(left, right, x < y ? y : x)                                                  \
    default: EACH(left, right, x > y ? y : x)                                                       \
    }

static void perform(float (*restrict registers)[GROUP], const Step *step) {
    float *to = registers[step->to], c = step->c;
    const float *a = registers[step->a], *b = registers[step->b >= 0 ? step->b : step->a];
    if (step->b < 0 && step->is_reversed) OPERATIONS(c, a[i])
    else if (step->b < 0) OPERATIONS(a[i], c)
    else if (step->is_reversed) OPERATIONS(b[i], a[i])
    else OPERATIONS(a[i], b[i])
}

/* A law that computes with its numbers: the steps that were traced, on whole groups. */
static void computed(float *restrict out, int64_t group, const Term *restrict term, float c, int add) {
    float registers[REGISTERS][GROUP];
    const Step *steps = (const Step *)(intptr_t)term->u, *last = steps + term->columns - 1;
    int is_copied = last->operation == COPY && last->to == 0;
    const float *result = registers[is_copied ? last->a : 0];
    for (int32_t k = 0; k < term->columns - is_copied; k++) {
        const Step *s = steps + k;
        if (s->operation != DRAW) { perform(registers, s); continue; }
        Term stream = { .keys = { { term->keys[s->a][0], term->keys[s->a][1] } } };
        switch (s->b) {
        case NORMAL: normals(registers[s->to], group, &stream, 1.0f, 0); break;
        case SIGN: signs(registers[s->to], group, &stream, 1.0f, 0); break;
        case UNIFORM: uniforms(registers[s->to], group, &stream, 1.0f, 0); break;
        default: coarse(registers[s->to], group, &stream, 1.0f, 0);
        }
    }
    for (int i = 0; i < GROUP; i++) PUT(out[i], result[i]);
}

/* Entries first to last of a term, written at their offsets within their group. */
#define ENTRIES(add)                                                                                   \
    switch (term->kind) {                                                                           \
    case NORMAL: normals(sum, first / GROUP, term, c, add); break;                                  \
    case SIGN: signs(sum, first / GROUP, term, c, add); break;                                      \
    case UNIFORM: uniforms(sum, first / GROUP, term, c, add); break;                                \
    case COARSE: coarse(sum, first / GROUP, term, c, add); break;                                   \
    case COMPUTED: computed(sum, first / GROUP, term, c, add); break;                               \
    case LOW_RANK: outer(sum + first % GROUP, first, last, term, c, add); break;                    \
    default: values(sum + first % GROUP, first, last, term, c, add);                                \
    }

static void draw_plain(float *restrict sum, int64_t first, int64_t last, const Term *restrict term, float c, int add) {
    if (add) ENTRIES(1)
    else ENTRIES(0)
}

/* The vector times its scale, rounded to float32 before it is multiplied by the coefficient. */
static void draw_scaled(float *restrict sum, int64_t first, int64_t last, const Term *restrict term, int add) {
    float z[GROUP], c = term->coefficient;
    const float *restrict s = at(term->scale) + first, *restrict from = z + first % GROUP;
    float *restrict to = sum + first % GROUP;
    draw_plain(z, first, last, term, 1.0f, 0);
    if (term->inverse_root) for (int64_t i = 0; i < last - first; i++) PUT(to[i], from[i] * (1.0f / __builtin_sqrtf(s[i])));
    else for (int64_t i = 0; i < last - first; i++) PUT(to[i], from[i] * s[i]);
}

static void draw(float *restrict sum, int64_t first, int64_t last, const Term *restrict term, int add) {
    if (term->scale) draw_scaled(sum, first, last, term, add);
    else draw_plain(sum, first, last, term, term->coefficient, add);
}

static inline float from_half(uint16_t h) { union { uint16_t bits; _Float16 value; } c = { h }; return (float)c.value; }
static inline uint16_t to_half(float f) { union { _Float16 value; uint16_t bits; } c = { (_Float16)f }; return c.bits; }
static inline uint16_t to_bfloat(float f) {
    uint32_t b = as_bits(f);
    return (b & 0x7FFFFFFFu) > 0x7F800000u ? (uint16_t)((b >> 16) | 64u) : (uint16_t)((b + 0x7FFFu + ((b >> 16) & 1u)) >> 16);
}

/* Stochastic rounding as in zoplat/space/rounding.py, with 16 random bits k. */
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

/* target <- factor * source + sum. Each loop is vectorised only if the compiler knows whether the arrays are the same. */
#define IN_PLACE(type, load, ...)                                                                   \
    {                                                                                               \
        type *t = (type *)target + first;                                                           \
        for (int64_t i = 0; i < n; i++) { float f = factor * load(t[i]) + sum[i]; t[i] = __VA_ARGS__; } \
    }
#define OUT_OF_PLACE(from, type, load, save)                                                               \
    {                                                                                               \
        const from *restrict w = (const from *)source + first;                                      \
        type *restrict t = (type *)target + first;                                                  \
        for (int64_t i = 0; i < n; i++) t[i] = save(factor * load(w[i]) + sum[i]);                    \
    }

static void store(
    int32_t dtype, intptr_t source, intptr_t target, float factor, int64_t first, int64_t n, const float *restrict sum
) {
    int in_place = source == target;
    switch (dtype) {
    case FLOAT32: if (in_place) IN_PLACE(float, same, f) else OUT_OF_PLACE(float, float, same, same) break;
    case BFLOAT16:
        if (in_place) IN_PLACE(uint16_t, from_bfloat, to_bfloat(f))
        else OUT_OF_PLACE(uint16_t, uint16_t, from_bfloat, to_bfloat)
        break;
    case FLOAT16:
        if (in_place) IN_PLACE(uint16_t, from_half, to_half(f))
        else OUT_OF_PLACE(uint16_t, uint16_t, from_half, to_half)
        break;
    case TO_BFLOAT16: OUT_OF_PLACE(float, uint16_t, same, to_bfloat) break;
    case TO_FLOAT16: OUT_OF_PLACE(float, uint16_t, same, to_half) break;
    default: for (int64_t i = 0; i < n; i++) ((float *)target)[first + i] = sum[i];
    }
}

/* In place, for 16-bit weights, rounded stochastically with 16 random bits k for each entry. */
static void store_stochastically(
    int32_t dtype, intptr_t target, float factor, int64_t first, int64_t n, const float *restrict sum,
    const uint32_t *restrict k
) {
    if (dtype == BFLOAT16) IN_PLACE(uint16_t, from_bfloat, stochastic_bfloat(f, k[i]))
    else IN_PLACE(uint16_t, from_half, stochastic_half(f, k[i]))
}

static inline float limited(float f, float low, float high) { f = f > low ? f : low; return f < high ? f : high; }

/* Codes q and their rest r as in zoplat/space/packed.py: factor * (q + r / 256) + sum, rounded at random to 1 / 256. */
static void store_codes(
    uint8_t *restrict q, int8_t *restrict r, int shift, float factor, int64_t n, const float *restrict sum,
    const uint32_t *restrict k
) {
    uint8_t others = (uint8_t)(0xF0 >> shift);
    for (int64_t i = 0; i < n; i++) {
        float theta = (float)r[i] * 0.00390625f + (float)((q[i] >> shift) & 15);
        float parts = limited((factor * theta + sum[i]) * 256.0f + share(k[i]), -128.0f, 3967.0f);
        int32_t down = (int32_t)parts;
        down += 128 - ((float)down > parts);
        q[i] = (uint8_t)((q[i] & others) | (down >> 8 << shift));
        r[i] = (int8_t)((down & 255) - 128);
    }
}

static void store_probed(uint8_t *restrict to, const uint8_t *restrict q, int shift, int64_t n, const float *restrict sum) {
    uint8_t others = (uint8_t)(0xF0 >> shift);
    for (int64_t i = 0; i < n; i++) {
        int32_t probed = (int32_t)limited((float)((q[i] >> shift) & 15) + sum[i], 0.0f, 15.0f);
        to[i] = (uint8_t)((to[i] & others) | (probed << shift));
    }
}

/* Entries first to last of a block of codes, half a row at a time: the halves are in the lower and upper four bits. */
static void write_codes(
    const Job *job, intptr_t target, float factor, int64_t first, int64_t last, const float *sum, const uint32_t *k
) {
    int64_t half = job->columns / 2;
    for (int64_t n; first < last; first += n, sum += n, k += n) {
        int64_t number = first / half, column = first % half, at = number / 2 * half + column;
        int shift = number % 2 ? 4 : 0;
        n = half - column < last - first ? half - column : last - first;
        uint8_t *to = (uint8_t *)target + at;
        if (job->dtype == CODES) store_codes(to, (int8_t *)(intptr_t)job->source + first, shift, factor, n, sum, k);
        else store_probed(to, (const uint8_t *)(intptr_t)job->source + at, shift, n, sum);
    }
}

static void run(const Job *job, const Call *call) {
    float sum[GROUP];
    uint32_t random_bits[GROUP];
    int wide = job->dtype != BFLOAT16 && job->dtype != FLOAT16, packed = job->dtype >= CODES;
    intptr_t source = (intptr_t)job->source, target = (intptr_t)(job->target + call->origin);
    const Term *terms = call->terms + (int64_t)job->line * call->stride;
    int32_t count = call->counts[job->line];
    for (int i = 0; i < GROUP; i++) sum[i] = 0.0f;
    for (int64_t first = job->start; first < job->stop;) {
        int64_t last = (first / GROUP + 1) * GROUP;
        if (last > job->stop) last = job->stop;
        const char *ahead = (const char *)source + (first + 2 * GROUP) * (wide ? 4 : 2);
        for (int i = 0; i < GROUP * 4 && !packed; i += 64) __builtin_prefetch(ahead + i, 1);
        for (int32_t k = 0; k < count; k++) draw(sum, first, last, terms + k, k);
        const float *from = sum + first % GROUP;
        const uint32_t *k = random_bits + first % GROUP;
        if (job->dtype == CODES || (call->is_stochastic && !wide)) halves(random_bits, first / GROUP, terms + count);
        if (packed) {
            write_codes(job, target, call->factor, first, last, from, k);
        } else if (call->is_stochastic && !wide) {
            store_stochastically(job->dtype, target, call->factor, first, last - first, from, k);
        } else {
            store(job->dtype, source, target, call->factor, first, last - first, from);
        }
        first = last;
    }
}

/* Do jobs until none is left; several threads call this with one shared counter. */
void zoplat_run(const Job *jobs, int32_t count, const Call *call, int32_t *next) {
    for (;;) {
        int32_t i = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
        if (i >= count) return;
        run(jobs + i, call);
    }
}

typedef struct {            /* a traced rule; register 0 holds entries of theta */
    const Call *update;     /* performed on theta before the rule */
    const Call *direction;  /* its entries are register 1 */
    const Step *steps;
    const int64_t *arrays;  /* for each line, addresses of buffers, registers 2 on; 0 for one that does not cover the block */
    int32_t step_count;
    int32_t array_count;
    uint32_t written;       /* bit k: register k is written back to its array */
} Rule;

static void read_weights(int32_t dtype, intptr_t source, int64_t first, int64_t n, float *restrict to) {
    const uint16_t *narrow = (const uint16_t *)source + first;
    if (dtype == FLOAT32) for (int64_t i = 0; i < n; i++) to[i] = ((const float *)source)[first + i];
    else if (dtype == BFLOAT16) for (int64_t i = 0; i < n; i++) to[i] = from_bfloat(narrow[i]);
    else for (int64_t i = 0; i < n; i++) to[i] = from_half(narrow[i]);
}

/* Rounded stochastically where there are random bits k. */
static void write_weights(
    int32_t dtype, intptr_t target, int64_t first, int64_t n, const float *restrict from, const uint32_t *restrict k
) {
    uint16_t *narrow = (uint16_t *)target + first;
    if (dtype == FLOAT32) for (int64_t i = 0; i < n; i++) ((float *)target)[first + i] = from[i];
    else if (dtype == BFLOAT16 && k) for (int64_t i = 0; i < n; i++) narrow[i] = stochastic_bfloat(from[i], k[i]);
    else if (dtype == BFLOAT16) for (int64_t i = 0; i < n; i++) narrow[i] = to_bfloat(from[i]);
    else if (k) for (int64_t i = 0; i < n; i++) narrow[i] = stochastic_half(from[i], k[i]);
    else for (int64_t i = 0; i < n; i++) narrow[i] = to_half(from[i]);
}

static void rule(const Job *job, const Rule *rule) {
    float registers[REGISTERS][GROUP], sum[GROUP];
    uint32_t random_bits[GROUP];
    intptr_t theta = (intptr_t)job->source;
    float factor = rule->update->factor;
    const Term *moves = rule->update->terms + (int64_t)job->line * rule->update->stride;
    const Term *entries = rule->direction->terms + (int64_t)job->line * rule->direction->stride;
    const int64_t *arrays = rule->arrays + (int64_t)job->line * rule->array_count;
    int32_t updates = rule->update->counts[job->line], terms = rule->direction->counts[job->line];
    int is_stochastic = rule->update->is_stochastic && job->dtype != FLOAT32;
    for (int k = 0; k < REGISTERS; k++) for (int i = 0; i < GROUP; i++) registers[k][i] = 0.0f;
    for (int64_t first = job->start; first < job->stop;) {
        int64_t last = (first / GROUP + 1) * GROUP;
        if (last > job->stop) last = job->stop;
        int64_t n = last - first;
        const float *from = sum + first % GROUP;
        for (int32_t k = 0; k < updates; k++) draw(sum, first, last, moves + k, k);
        read_weights(job->dtype, theta, first, n, registers[0]);
        if (updates) for (int64_t i = 0; i < n; i++) registers[0][i] = factor * registers[0][i] + from[i];
        else for (int64_t i = 0; i < n; i++) registers[0][i] = factor * registers[0][i];
        for (int32_t k = 0; k < terms; k++) draw(sum, first, last, entries + k, k);
        for (int64_t i = 0; i < n; i++) registers[1][i] = terms ? from[i] : 0.0f;
        for (int32_t k = 0; k < rule->array_count; k++)
            if (arrays[k]) for (int64_t i = 0; i < n; i++) registers[2 + k][i] = at(arrays[k])[first + i];
        for (int32_t k = 0; k < rule->step_count; k++) perform(registers, rule->steps + k);
        if (is_stochastic) halves(random_bits, first / GROUP, moves + updates);
        write_weights(job->dtype, theta, first, n, registers[0], is_stochastic ? random_bits + first % GROUP : 0);
        for (int32_t k = 0; k < rule->array_count; k++) {
            float *array = (float *)(intptr_t)arrays[k];
            if (rule->written >> (2 + k) & 1) for (int64_t i = 0; i < n; i++) array[first + i] = registers[2 + k][i];
        }
        first = last;
    }
}

/* Likewise for the jobs of a rule. */
void zoplat_rule(const Job *jobs, int32_t count, const Rule *shared, int32_t *next) {
    for (;;) {
        int32_t i = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
        if (i >= count) return;
        rule(jobs + i, shared);
    }
}

/* Random numbers first to first + count of a stream. */
void zoplat_numbers(float *out, int32_t kind, uint32_t key0, uint32_t key1, int64_t first, int64_t count) {
    float z[GROUP];
    Term term = { .kind = kind, .keys = { { key0, key1 } }, .coefficient = 1.0f };
    for (int64_t stop = first + count; first < stop;) {
        int64_t last = (first / GROUP + 1) * GROUP, from = first % GROUP;
        if (last > stop) last = stop;
        draw(z, first, last, &term, 0);
        for (int64_t i = 0; i < last - first; i++) *out++ = z[from + i];
        first = last;
    }
}
