/* Draw, scale and add in registers: the noise of docs/explanation/noise.md and the moves of zoplat/space.py.
 *
 * The numbers are those of noise.py, bit for bit, provided that no product and sum are fused
 * (-ffp-contract=off). Freestanding: no library is called. */

#include <stdint.h>

#define GROUP 512
#define HALF 256

/* The long dependency chains of the noise need several vectors in flight. */
#ifdef __clang__
#define INTERLEAVE _Pragma("clang loop interleave_count(8)")
#else
#define INTERLEAVE
#endif

enum { NORMAL, SIGN, UNIFORM, LOW_RANK, VALUES };
enum { FLOAT32, BFLOAT16, FLOAT16 };

typedef struct {            /* coefficient times one random vector */
    int32_t kind;
    int32_t rank;           /* of LOW_RANK */
    uint32_t key0, key1;    /* of the stream */
    float coefficient;
    int32_t columns;
    const float *u;         /* LOW_RANK: (rows, rank) of the whole block; VALUES: entries, numbered as the block's */
    const float *v;         /* LOW_RANK: (rank, columns) */
} Term;

typedef struct {            /* entries start to stop of one block: source -> target <- keep * source + terms */
    const void *source;
    void *target;
    int64_t start, stop;
    const Term *terms;
    int32_t count;
    int32_t dtype;
    float keep;
    int32_t unused;
} Job;

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

static void normals(float *out, uint64_t group, uint32_t key0, uint32_t key1) {
    uint64_t counter = group * GROUP;
    uint32_t base = (uint32_t)counter, high = high_part(counter, key1);
    INTERLEAVE
    for (int i = 0; i < HALF; i++) {
        uint32_t a = word(base + 2 * i, high, key0, key1), b = word(base + 2 * i + 1, high, key0, key1);
        uint32_t bits = as_bits((float)(a | 1u)) - 0x3F3504F3u;
        int32_t exponent = (int32_t)bits >> 23;
        float m = as_float((bits & 0x007FFFFFu) + 0x3F3504F3u) - 1.0f;
        float p = 0.11986313f;
        p = p * m + -0.18761695f;
        p = p * m + 0.20492584f;
        p = p * m + -0.24897768f;
        p = p * m + 0.33315544f;
        p = p * m + -0.50001486f;
        float minus_log = (float)(32 - exponent) * 0.69314718f - (p * (m * m) + m);
        float radius = __builtin_sqrtf(minus_log > 0.0f ? minus_log : 0.0f);
        float angle = (float)(int32_t)(b & 0xFFFFFFFCu) * 3.6572952e-10f;
        float square = angle * angle;
        float cosine = ((-0.00135978f * square + 0.04165629f) * square + -0.49999895f) * square + 1.0f;
        float sine = (0.00815299f * square + -0.16662834f) * (square * angle) + angle;
        out[i] = as_float(as_bits(radius * (cosine - sine)) ^ (b << 31));
        out[HALF + i] = as_float(as_bits(radius * (cosine + sine)) ^ ((b & 2u) << 30));
    }
}

static void signs(float *out, uint64_t group, uint32_t key0, uint32_t key1) {
    uint64_t counter = group * (GROUP / 32);
    uint32_t base = (uint32_t)counter, high = high_part(counter, key1);
    for (int k = 0; k < GROUP / 32; k++) {
        uint32_t w = word(base + k, high, key0, key1);
        for (int j = 0; j < 32; j++) out[32 * k + j] = as_float(0x3F800000u ^ (((w >> j) & 1u) << 31));
    }
}

static void uniforms(float *out, uint64_t group, uint32_t key0, uint32_t key1) {
    uint64_t counter = group * GROUP;
    uint32_t base = (uint32_t)counter, high = high_part(counter, key1);
    INTERLEAVE
    for (int i = 0; i < GROUP; i++)
        out[i] = (float)(word(base + i, high, key0, key1) >> 8) * 5.9604644775390625e-8f;
}

static void outer(float *out, int64_t first, int64_t last, const Term *term) {
    while (first < last) {
        int64_t row = first / term->columns, column = first % term->columns;
        int64_t n = term->columns - column < last - first ? term->columns - column : last - first;
        const float *u = term->u + row * term->rank, *v = term->v + column;
        float u0 = u[0];
        for (int64_t j = 0; j < n; j++) out[j] = u0 * v[j];
        for (int32_t k = 1; k < term->rank; k++) {
            float uk = u[k];
            v += term->columns;
            for (int64_t j = 0; j < n; j++) out[j] = out[j] + uk * v[j];
        }
        out += n;
        first += n;
    }
}

/* Entries first to last of a term, at their places within the group that holds them. */
static void draw(float *z, int64_t first, int64_t last, const Term *term) {
    int64_t group = first / GROUP, from = first % GROUP;
    switch (term->kind) {
    case NORMAL: normals(z, group, term->key0, term->key1); break;
    case SIGN: signs(z, group, term->key0, term->key1); break;
    case UNIFORM: uniforms(z, group, term->key0, term->key1); break;
    case LOW_RANK: outer(z + from, first, last, term); break;
    default: for (int64_t i = first; i < last; i++) z[from + i - first] = term->u[i];
    }
}

static inline float from_half(uint16_t h) { union { uint16_t bits; _Float16 value; } c = { h }; return (float)c.value; }
static inline uint16_t to_half(float f) { union { _Float16 value; uint16_t bits; } c = { (_Float16)f }; return c.bits; }
static inline uint16_t to_bfloat(float f) {
    uint32_t b = as_bits(f);
    return (b & 0x7FFFFFFFu) > 0x7F800000u ? (uint16_t)((b >> 16) | 64u) : (uint16_t)((b + 0x7FFFu + ((b >> 16) & 1u)) >> 16);
}

/* target <- keep * source + sum. Source and target are the same array or apart; telling the compiler is what lets it
 * use vectors. */
#define STORE(type, load, save)                                                                     \
    {                                                                                               \
        type *t = (type *)job->target + first;                                                      \
        if (job->source == job->target) {                                                           \
            for (int64_t i = 0; i < n; i++) t[i] = save(keep * load(t[i]) + sum[i]);                \
        } else {                                                                                    \
            const type *restrict w = (const type *)job->source + first;                             \
            type *restrict apart = t;                                                               \
            for (int64_t i = 0; i < n; i++) apart[i] = save(keep * load(w[i]) + sum[i]);            \
        }                                                                                           \
    }

static inline float same(float f) { return f; }
static inline float from_bfloat(uint16_t b) { return as_float((uint32_t)b << 16); }

static void store(const Job *job, int64_t first, int64_t n, const float *restrict sum) {
    float keep = job->keep;
    if (job->dtype == FLOAT32) STORE(float, same, same)
    else if (job->dtype == BFLOAT16) STORE(uint16_t, from_bfloat, to_bfloat)
    else STORE(uint16_t, from_half, to_half)
}

static void run(const Job *job) {
    float sum[GROUP], z[GROUP];
    for (int i = 0; i < GROUP; i++) sum[i] = 0.0f;
    for (int64_t first = job->start; first < job->stop;) {
        int64_t last = (first / GROUP + 1) * GROUP, from = first % GROUP;
        if (last > job->stop) last = job->stop;
        for (int32_t k = 0; k < job->count; k++) {
            float c = job->terms[k].coefficient;
            draw(z, first, last, job->terms + k);
            if (k == 0) for (int i = 0; i < GROUP; i++) sum[i] = c * z[i];
            else for (int i = 0; i < GROUP; i++) sum[i] = sum[i] + c * z[i];
        }
        store(job, first, last - first, sum + from);
        first = last;
    }
}

/* Take jobs until none is left; called by several threads with one shared counter. */
void zoplat_run(const Job *jobs, int32_t count, int32_t *next) {
    for (;;) {
        int32_t i = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
        if (i >= count) return;
        run(jobs + i);
    }
}

/* Numbers first to first + count of a stream. */
void zoplat_numbers(float *out, int32_t kind, uint32_t key0, uint32_t key1, int64_t first, int64_t count) {
    float z[GROUP];
    Term term = { kind, 0, key0, key1, 1.0f, 0, 0, 0 };
    for (int64_t stop = first + count; first < stop;) {
        int64_t last = (first / GROUP + 1) * GROUP, from = first % GROUP;
        if (last > stop) last = stop;
        draw(z, first, last, &term);
        for (int64_t i = 0; i < last - first; i++) *out++ = z[from + i];
        first = last;
    }
}
