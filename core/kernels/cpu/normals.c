/* Matrices of normal numbers on a CPU core: core.rng.plain_normal_matrix, with Philox and Box-Muller
 * as there. Every entry is computed by the same instructions wherever it stands, so it doesn't depend
 * on what is drawn beside it.
 */
#include "vectors.h"

enum { COUNTERS = 64 }; /* at a time: four normals each, all in the first cache */

/* core.rng.philox of the counters (first + l, low, high, 0), 7 rounds. */
static void philox(
    uint32_t key0, uint32_t key1, uint32_t first, uint32_t low, uint32_t high,
    uint32_t word[4][COUNTERS])
{
    for (uint32_t l = 0; l < COUNTERS; l++) {
        word[0][l] = first + l;
        word[1][l] = low;
        word[2][l] = high;
        word[3][l] = 0;
    }
    for (int round = 0; round < 7; round++) {
#pragma omp simd
        for (int l = 0; l < COUNTERS; l++) {
            uint64_t product0 = (uint64_t)word[0][l] * 0xD2511F53u;
            uint64_t product1 = (uint64_t)word[2][l] * 0xCD9E8D57u;
            word[0][l] = (uint32_t)(product1 >> 32) ^ word[1][l] ^ key0;
            word[1][l] = (uint32_t)product1;
            word[2][l] = (uint32_t)(product0 >> 32) ^ word[3][l] ^ key1;
            word[3][l] = (uint32_t)product0;
        }
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

/* sqrt(-2 ln u) of a normal number u in (0, 1). */
static inline float radius(float u) { return sqrtf(-2.0f * logarithm(u)); }

/* cos and sin of 2 pi t, t in (0, 1): the nearest quarter of a turn, and Taylor series for the rest,
 * at most an eighth. */
static inline void turn(float t, float *cosine, float *sine)
{
    float quarters = 4.0f * t;
    int32_t nearest = (int32_t)(quarters + 0.5f);
    float x = (quarters - (float)nearest) * 1.57079633f, z = x * x;
    float s = __builtin_fmaf(z, 2.7557319e-6f, -1.9841270e-4f);
    s = __builtin_fmaf(z, __builtin_fmaf(z, s, 8.3333333e-3f), -1.6666667e-1f);
    float c = __builtin_fmaf(z, 2.4801587e-5f, -1.3888889e-3f);
    c = __builtin_fmaf(z, __builtin_fmaf(z, c, 4.1666667e-2f), -0.5f);
    s = __builtin_fmaf(x * z, s, x);
    c = __builtin_fmaf(z, c, 1.0f);
    uint32_t odd = -(uint32_t)(nearest & 1);
    uint32_t s_bits = as_bits(s), c_bits = as_bits(c);
    uint32_t swap = (s_bits ^ c_bits) & odd;
    *sine = as_float(s_bits ^ swap ^ ((uint32_t)(nearest & 2) << 30));
    *cosine = as_float(c_bits ^ swap ^ ((uint32_t)((nearest + 1) & 2) << 30));
}

/* Two words of each counter to a pair of core.rng.normals, times `scale`. */
static void normal_pairs(const uint32_t *word0, const uint32_t *word1, float scale, float *to)
{
    float first[COUNTERS], second[COUNTERS];
#pragma omp simd
    for (int l = 0; l < COUNTERS; l++) {
        float u = ((float)(int32_t)(word0[l] >> 9) + 0.5f) * 0x1p-23f;
        float t = ((float)(int32_t)(word1[l] >> 9) + 0.5f) * 0x1p-23f;
        float cosine, sine, r = radius(u) * scale;
        turn(t, &cosine, &sine);
        first[l] = r * cosine;
        second[l] = r * sine;
    }
    for (int l = 0; l < COUNTERS; l++) {
        to[4 * l] = first[l];
        to[4 * l + 1] = second[l];
    }
}

/* Matrices of rows x columns normals times `scale`; each has a seed, a low and a high of its own. */
int normals(
    int64_t count, int64_t rows, int64_t columns, uint32_t purpose, const int64_t *seed,
    const int64_t *low, const int64_t *high, float scale, float *to)
{
    const int64_t quads = (columns + 3) / 4; /* counters of a row */
    for (int64_t m = 0; m < count; m++, to += rows * columns)
        for (int64_t first = 0; first < rows * quads; first += COUNTERS) {
            uint32_t word[4][COUNTERS];
            float entry[4 * COUNTERS];
            philox(
                (uint32_t)seed[m], purpose, (uint32_t)first, (uint32_t)low[m], (uint32_t)high[m], word);
            normal_pairs(word[0], word[1], scale, entry);
            normal_pairs(word[2], word[3], scale, entry + 2);
            int64_t left = rows * quads - first, counters = left < COUNTERS ? left : COUNTERS;
            if (columns % 4 == 0)
                memcpy(to + 4 * first, entry, 4 * counters * sizeof(float));
            else
                for (int64_t l = 0; l < counters; l++) {
                    int64_t i = (first + l) / quads, j = (first + l) % quads * 4;
                    int64_t entries = columns - j < 4 ? columns - j : 4;
                    memcpy(to + i * columns + j, entry + 4 * l, entries * sizeof(float));
                }
        }
    return 0;
}
