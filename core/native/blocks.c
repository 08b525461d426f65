/* The attention and the MLP block of core/blocks.py on a CPU core, forward and backward, float32.
 *
 * A sequence is small (16 to 200 tokens of width 2 to 64), so all of a block's work on it stays in
 * the first caches, and the weights of a replica are packed once a call. Sequences are handled one
 * after the other and in the same order whatever the pack, so a replica's numbers don't depend on
 * its neighbours. Rows of all buffers here are padded with zeros to whole vectors.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define W 16 /* floats of a vector; the compiler splits it where registers are shorter */
typedef float vec __attribute__((vector_size(4 * W), aligned(4 * W), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * W), aligned(4 * W), may_alias));

#ifdef __AVX512F__
enum { TILE_ROWS = 8, TILE_VECTORS = 2 };
#else
enum { TILE_ROWS = 6, TILE_VECTORS = 1 };
#endif

static int64_t pad(int64_t n) { return (n + W - 1) / W * W; }

/* ---- products ---- */

/* C[rows x vectors W] (+)= A B; A[i, k] at a[i ai + k ak]; everything constant is unrolled. */
static inline __attribute__((always_inline)) void tile(
    const int rows, const int vectors, int64_t depth, const float *a, int64_t ai, int64_t ak,
    const float *b, int64_t bk, float *c, int64_t ci, int add)
{
    vec sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++)
            sum[i][j] = add ? *(const vec *)(c + i * ci + j * W) : (vec){0};
    for (int64_t k = 0; k < depth; k++) {
        const float *ak_ = a + k * ak;
        const float *b_ = b + k * bk;
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
            for (int j = 0; j < vectors; j++)
                sum[i][j] += ak_[i * ai] * *(const vec *)(b_ + j * W);
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++)
            *(vec *)(c + i * ci + j * W) = sum[i][j];
}

#define TILES(vectors) \
    for (i = 0; i + TILE_ROWS <= m; i += TILE_ROWS) \
        tile(TILE_ROWS, vectors, depth, a + i * ai, ai, ak, b + j, bk, c + i * ci + j, ci, add); \
    switch (m - i) { \
    case 7: tile(7, vectors, depth, a + i * ai, ai, ak, b + j, bk, c + i * ci + j, ci, add); break; \
    case 6: tile(6, vectors, depth, a + i * ai, ai, ak, b + j, bk, c + i * ci + j, ci, add); break; \
    case 5: tile(5, vectors, depth, a + i * ai, ai, ak, b + j, bk, c + i * ci + j, ci, add); break; \
    case 4: tile(4, vectors, depth, a + i * ai, ai, ak, b + j, bk, c + i * ci + j, ci, add); break; \
    case 3: tile(3, vectors, depth, a + i * ai, ai, ak, b + j, bk, c + i * ci + j, ci, add); break; \
    case 2: tile(2, vectors, depth, a + i * ai, ai, ak, b + j, bk, c + i * ci + j, ci, add); break; \
    case 1: tile(1, vectors, depth, a + i * ai, ai, ak, b + j, bk, c + i * ci + j, ci, add); break; \
    }

/* C[m x n] = (add ? C : 0) + A[m x depth] B[depth x n]; n and the rows of B and C whole vectors. */
static void product(
    int64_t m, int64_t n, int64_t depth, const float *a, int64_t ai, int64_t ak, const float *b,
    int64_t bk, float *c, int64_t ci, int add)
{
    int64_t i, j = 0;
    for (; j + TILE_VECTORS * W <= n; j += TILE_VECTORS * W) { TILES(TILE_VECTORS) }
    for (; j + W <= n; j += W) { TILES(1) }
}

/* ---- packing ---- */

static void pack(int64_t rows, int64_t columns, const float *from, int64_t stride, float *to)
{
    int64_t width = pad(columns);
    for (int64_t i = 0; i < rows; i++) {
        memcpy(to + i * width, from + i * stride, columns * sizeof(float));
        memset(to + i * width + columns, 0, (width - columns) * sizeof(float));
    }
}

static void pack_transposed(int64_t rows, int64_t columns, const float *from, int64_t stride, float *to)
{
    int64_t width = pad(rows);
    for (int64_t j = 0; j < columns; j++) {
        for (int64_t i = 0; i < rows; i++) to[j * width + i] = from[i * stride + j];
        for (int64_t i = rows; i < width; i++) to[j * width + i] = 0.0f;
    }
}

static void unpack(int64_t rows, int64_t columns, const float *from, float *to, int64_t stride)
{
    int64_t width = pad(columns);
    for (int64_t i = 0; i < rows; i++)
        memcpy(to + i * stride, from + i * width, columns * sizeof(float));
}

/* ---- layer norm, without parameters ---- */

static void norm(int64_t rows, int64_t D, const float *x, float *y, float *rstd)
{
    int64_t width = pad(D);
    for (int64_t s = 0; s < rows; s++) {
        const float *row = x + s * D;
        float mean = 0.0f, variance = 0.0f;
#pragma omp simd reduction(+ : mean)
        for (int64_t d = 0; d < D; d++) mean += row[d];
        mean /= D;
#pragma omp simd reduction(+ : variance)
        for (int64_t d = 0; d < D; d++) variance += (row[d] - mean) * (row[d] - mean);
        float scale = 1.0f / sqrtf(variance / D + 1e-5f);
        for (int64_t d = 0; d < D; d++) y[s * width + d] = (row[d] - mean) * scale;
        for (int64_t d = D; d < width; d++) y[s * width + d] = 0.0f;
        rstd[s] = scale;
    }
}

/* grad_x = rstd (g - mean(g) - y mean(g y)); g padded, grad_x not. */
static void norm_backward(
    int64_t rows, int64_t D, const float *g, const float *y, const float *rstd, float *grad_x)
{
    int64_t width = pad(D);
    for (int64_t s = 0; s < rows; s++) {
        const float *g_ = g + s * width, *y_ = y + s * width;
        float sum = 0.0f, dot = 0.0f;
#pragma omp simd reduction(+ : sum, dot)
        for (int64_t d = 0; d < D; d++) {
            sum += g_[d];
            dot += g_[d] * y_[d];
        }
        sum /= D;
        dot /= D;
        for (int64_t d = 0; d < D; d++) grad_x[s * D + d] = rstd[s] * (g_[d] - sum - y_[d] * dot);
    }
}

/* ---- softmax ---- */

/* e^x for x <= 0, to two units in the last place: 2^n e^r with |r| <= ln(2)/2 and Cephes' polynomial
 * for e^r (Moshier 1992, expf). NaN stays NaN. */
static inline vec exponential(vec x)
{
    const vec least = {-87.0f, -87.0f, -87.0f, -87.0f, -87.0f, -87.0f, -87.0f, -87.0f,
                       -87.0f, -87.0f, -87.0f, -87.0f, -87.0f, -87.0f, -87.0f, -87.0f};
    ivec below = x < least;
    x = (vec)((below & (ivec)least) | (~below & (ivec)x));
    vec shifted = x * 1.44269504088896341f + 12582912.0f; /* 1.5 2^23: rounds to whole numbers */
    vec n = shifted - 12582912.0f;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ivec power = ((ivec)shifted << 23) + 0x3f800000;
    vec e = p * (vec)power;
    return (vec)(~below & (ivec)e); /* less than 1e-37 counts as 0 */
}

/* Causal softmax of scores held with keys in rows and queries in lanes, so that no reduction runs
 * across a vector: query i, at token i stride, sees keys 0 ... i stride. The rest becomes 0. */
static void softmax(float *t, int64_t keys, int64_t queries, int64_t stride)
{
    const ivec lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const int64_t width = pad(queries);
    for (int64_t j = 0; j < width; j += W) {
        ivec position = (lanes + (int32_t)j) * (int32_t)stride;
        int64_t whole = j * stride + 1; /* keys that all of these queries see */
        int64_t seen = (j + W - 1) * stride + 1; /* and that any of them sees */
        whole = whole < keys ? whole : keys;
        seen = seen < keys ? seen : keys;
        vec most = *(vec *)(t + j);
        for (int64_t s = 1; s < seen; s++) {
            vec x = *(vec *)(t + s * width + j);
            ivec larger = (x > most) & (position >= (int32_t)s);
            most = (vec)((larger & (ivec)x) | (~larger & (ivec)most));
        }
        vec total = {0};
        for (int64_t s = 0; s < seen; s++) {
            vec e = exponential(*(vec *)(t + s * width + j) - most);
            if (s >= whole) e = (vec)((position >= (int32_t)s) & (ivec)e);
            *(vec *)(t + s * width + j) = e;
            total += e;
        }
        vec scale = 1.0f / total;
        for (int64_t s = 0; s < seen; s++) *(vec *)(t + s * width + j) *= scale;
        for (int64_t s = seen; s < keys; s++) *(vec *)(t + s * width + j) = (vec){0};
    }
}

/* In place: grad of probabilities -> grad of scores, p (g - sum over keys of p g). */
static void softmax_backward(const float *p, float *g, int64_t keys, int64_t queries)
{
    const int64_t width = pad(queries);
    for (int64_t j = 0; j < width; j += W) {
        vec dot = {0};
        for (int64_t s = j; s < keys * width; s += width) dot += *(const vec *)(p + s) * *(vec *)(g + s);
        for (int64_t s = j; s < keys * width; s += width)
            *(vec *)(g + s) = *(const vec *)(p + s) * (*(vec *)(g + s) - dot);
    }
}

/* ---- attention ---- */

typedef struct {
    int64_t replicas, sequences; /* of each replica */
    int64_t S, D, heads, K;      /* tokens of a sequence, width, heads, key size */
    int64_t stride;              /* outputs at tokens 0, stride, 2 stride ... */
    const float *rotation;       /* S x K/2 x (cos, sin), or NULL */
} attention_shape;

static int64_t read_tokens(const attention_shape *a) { return (a->S + a->stride - 1) / a->stride; }

/* Floats kept of a sequence for the backward pass: queries, keys and values, probabilities, mixed
 * values, 1 / deviation of layer norm. */
int64_t attention_kept(const attention_shape *a)
{
    int64_t Q = read_tokens(a), HK = pad(a->heads * a->K), KV = pad(2 * a->heads * a->K);
    return 2 * Q * HK + a->S * KV + a->heads * a->S * pad(Q) + pad(a->S);
}

typedef struct {
    float *q, *kv, *p, *mixed, *rstd;
} kept;

static kept kept_of(const attention_shape *a, float *base)
{
    int64_t Q = read_tokens(a), HK = pad(a->heads * a->K), KV = pad(2 * a->heads * a->K);
    kept k;
    k.q = base;
    k.kv = k.q + Q * HK;
    k.p = k.kv + a->S * KV;
    k.mixed = k.p + a->heads * a->S * pad(Q);
    k.rstd = k.mixed + Q * HK;
    return k;
}

/* Turns the pairs of all heads of rows of `t` by their positions, or back, and scales. */
static void turn(
    const attention_shape *a, float *t, int64_t rows, int64_t width, int64_t stride, float sign,
    float scale)
{
    int64_t columns = a->heads * a->K, half = a->K / 2;
    for (int64_t i = 0; i < rows; i++) {
        float *row = t + i * width;
        if (a->rotation == NULL) {
            if (scale != 1.0f)
                for (int64_t j = 0; j < columns; j++) row[j] *= scale;
            continue;
        }
        const float *angle = a->rotation + i * stride * half * 2;
        for (int64_t h = 0; h < a->heads; h++)
            for (int64_t j = 0; j < half; j++) {
                float *pair = row + h * a->K + 2 * j;
                float c = angle[2 * j] * scale, s = angle[2 * j + 1] * scale * sign;
                float x = pair[0], y = pair[1];
                pair[0] = x * c - y * s;
                pair[1] = x * s + y * c;
            }
    }
}

static float *scratch(int64_t floats)
{
    return aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64);
}

/* h, out: as in core/blocks.py; weights start at multiples of `row` floats a replica. Returns 0, or
 * 1 if there is no memory. */
int attention_forward(
    const attention_shape *a, const float *h, const float *q, const float *kv, const float *out,
    const int64_t *rows, float *keep, float *result)
{
    const int64_t S = a->S, D = a->D, K = a->K, HK = a->heads * K, Q = read_tokens(a);
    const int64_t Dp = pad(D), HKp = pad(HK), KVp = pad(2 * HK), Kp = pad(K), Qp = pad(Q);
    float *memory = scratch(D * (HKp + KVp) + HK * Dp + S * Dp + K * Qp + S * Kp + Q * Kp + Q * Dp);
    if (memory == NULL) return 1;
    float *wq = memory, *wkv = wq + D * HKp, *wout = wkv + D * KVp, *normed = wout + HK * Dp;
    float *qt = normed + S * Dp, *vh = qt + K * Qp, *oh = vh + S * Kp, *y = oh + Q * Kp;
    const float scale = 1.0f / sqrtf((float)K);
    for (int64_t r = 0; r < a->replicas; r++) {
        pack(D, HK, q + r * rows[0], HK, wq);
        pack(D, 2 * HK, kv + r * rows[1], 2 * HK, wkv);
        pack(HK, D, out + r * rows[2], D, wout);
        for (int64_t b = 0; b < a->sequences; b++) {
            const float *x = h + (r * a->sequences + b) * S * D;
            float *z = result + (r * a->sequences + b) * Q * D;
            kept k = kept_of(a, keep + (r * a->sequences + b) * attention_kept(a));
            norm(S, D, x, normed, k.rstd);
            product(Q, HKp, D, normed, a->stride * Dp, 1, wq, HKp, k.q, HKp, 0);
            product(S, KVp, D, normed, Dp, 1, wkv, KVp, k.kv, KVp, 0);
            turn(a, k.q, Q, HKp, a->stride, 1.0f, scale);
            turn(a, k.kv, S, KVp, 1, 1.0f, 1.0f);
            memset(k.mixed, 0, Q * HKp * sizeof(float));
            for (int64_t head = 0; head < a->heads; head++) {
                float *p = k.p + head * S * Qp; /* keys in rows */
                pack_transposed(Q, K, k.q + head * K, HKp, qt);
                pack(S, K, k.kv + HK + head * K, KVp, vh);
                product(S, Qp, K, k.kv + head * K, KVp, 1, qt, Qp, p, Qp, 0);
                softmax(p, S, Q, a->stride);
                product(Q, Kp, S, p, 1, Qp, vh, Kp, oh, Kp, 0);
                unpack(Q, K, oh, k.mixed + head * K, HKp);
            }
            product(Q, Dp, HK, k.mixed, HKp, 1, wout, Dp, y, Dp, 0);
            for (int64_t i = 0; i < Q; i++)
                for (int64_t d = 0; d < D; d++)
                    z[i * D + d] = x[i * a->stride * D + d] + y[i * Dp + d];
        }
    }
    free(memory);
    return 0;
}

int attention_backward(
    const attention_shape *a, const float *h, const float *q, const float *kv, const float *out,
    const int64_t *rows, const float *keep, const float *grad, float *grad_h, float *grad_q,
    float *grad_kv, float *grad_out)
{
    const int64_t S = a->S, D = a->D, K = a->K, HK = a->heads * K, Q = read_tokens(a);
    const int64_t Dp = pad(D), HKp = pad(HK), KVp = pad(2 * HK), Kp = pad(K), Qp = pad(Q);
    float *memory = scratch(
        HK * Dp + 2 * HK * Dp + D * HKp + D * HKp + D * KVp + HK * Dp + 2 * S * Dp + Q * Dp
        + 2 * Q * HKp + S * KVp + K * Qp + S * Qp + 2 * S * Kp + 3 * Q * Kp + S);
    if (memory == NULL) return 1;
    float *wqt = memory, *wkvt = wqt + HK * Dp, *woutt = wkvt + 2 * HK * Dp;
    float *gwq = woutt + D * HKp, *gwkv = gwq + D * HKp, *gwout = gwkv + D * KVp;
    float *normed = gwout + HK * Dp, *gn = normed + S * Dp, *g = gn + S * Dp, *go = g + Q * Dp;
    float *gq = go + Q * HKp, *gkv = gq + Q * HKp, *gt = gkv + S * KVp, *gp = gt + K * Qp;
    float *kh = gp + S * Qp, *gk = kh + S * Kp, *qh = gk + S * Kp, *gh = qh + Q * Kp;
    float *part = gh + Q * Kp, *unused = part + Q * Kp;
    const float scale = 1.0f / sqrtf((float)K);
    for (int64_t r = 0; r < a->replicas; r++) {
        pack_transposed(D, HK, q + r * rows[0], HK, wqt);
        pack_transposed(D, 2 * HK, kv + r * rows[1], 2 * HK, wkvt);
        pack_transposed(HK, D, out + r * rows[2], D, woutt);
        memset(gwq, 0, (D * HKp + D * KVp + HK * Dp) * sizeof(float));
        for (int64_t b = 0; b < a->sequences; b++) {
            const int64_t n = r * a->sequences + b;
            const float *x = h + n * S * D;
            float *gx = grad_h + n * S * D;
            kept k = kept_of(a, (float *)keep + n * attention_kept(a));
            norm(S, D, x, normed, unused);
            pack(Q, D, grad + n * Q * D, D, g);
            product(HK, Dp, Q, k.mixed, 1, HKp, g, Dp, gwout, Dp, 1);
            product(Q, HKp, D, g, Dp, 1, woutt, HKp, go, HKp, 0);
            memset(gq, 0, Q * HKp * sizeof(float));
            memset(gkv, 0, S * KVp * sizeof(float));
            for (int64_t head = 0; head < a->heads; head++) {
                const float *p = k.p + head * S * Qp;
                pack_transposed(Q, K, go + head * K, HKp, gt);
                pack(S, K, k.kv + head * K, KVp, kh);
                pack(Q, K, k.q + head * K, HKp, qh);
                pack(Q, K, go + head * K, HKp, gh);
                product(S, Qp, K, k.kv + HK + head * K, KVp, 1, gt, Qp, gp, Qp, 0);
                softmax_backward(p, gp, S, Q);
                product(Q, Kp, S, gp, 1, Qp, kh, Kp, part, Kp, 0);
                unpack(Q, K, part, gq + head * K, HKp);
                product(S, Kp, Q, gp, Qp, 1, qh, Kp, gk, Kp, 0);
                unpack(S, K, gk, gkv + head * K, KVp);
                product(S, Kp, Q, p, Qp, 1, gh, Kp, gk, Kp, 0);
                unpack(S, K, gk, gkv + HK + head * K, KVp);
            }
            turn(a, gq, Q, HKp, a->stride, -1.0f, scale);
            turn(a, gkv, S, KVp, 1, -1.0f, 1.0f);
            product(D, HKp, Q, normed, 1, a->stride * Dp, gq, HKp, gwq, HKp, 1);
            product(D, KVp, S, normed, 1, Dp, gkv, KVp, gwkv, KVp, 1);
            product(S, Dp, 2 * HK, gkv, KVp, 1, wkvt, Dp, gn, Dp, 0);
            product(Q, Dp, HK, gq, HKp, 1, wqt, Dp, gn, a->stride * Dp, 1);
            norm_backward(S, D, gn, normed, k.rstd, gx);
            for (int64_t i = 0; i < Q; i++)
                for (int64_t d = 0; d < D; d++) gx[i * a->stride * D + d] += g[i * Dp + d];
        }
        unpack(D, HK, gwq, grad_q + r * D * HK, HK);
        unpack(D, 2 * HK, gwkv, grad_kv + r * D * 2 * HK, 2 * HK);
        unpack(HK, D, gwout, grad_out + r * HK * D, D);
    }
    free(memory);
    return 0;
}

/* ---- MLP ---- */

enum { BLOCK = 32 }; /* tokens handled at a time */

/* hidden: replicas x tokens x pad(M), kept for the backward pass. */
int mlp_forward(
    int64_t replicas, int64_t tokens, int64_t D, int64_t M, const float *h, const float *up,
    const float *bias, const float *down, const int64_t *rows, float *hidden, float *result)
{
    const int64_t Dp = pad(D), Mp = pad(M);
    float *memory = scratch(D * Mp + Mp + M * Dp + 2 * BLOCK * Dp + BLOCK);
    if (memory == NULL) return 1;
    float *wup = memory, *wbias = wup + D * Mp, *wdown = wbias + Mp, *normed = wdown + M * Dp;
    float *y = normed + BLOCK * Dp, *rstd = y + BLOCK * Dp;
    for (int64_t r = 0; r < replicas; r++) {
        pack(D, M, up + r * rows[0], M, wup);
        pack(1, M, bias + r * rows[1], M, wbias);
        pack(M, D, down + r * rows[2], D, wdown);
        for (int64_t start = 0; start < tokens; start += BLOCK) {
            int64_t count = tokens - start < BLOCK ? tokens - start : BLOCK;
            const float *x = h + (r * tokens + start) * D;
            float *z = result + (r * tokens + start) * D;
            float *u = hidden + (r * tokens + start) * Mp;
            norm(count, D, x, normed, rstd);
            for (int64_t i = 0; i < count; i++) memcpy(u + i * Mp, wbias, Mp * sizeof(float));
            product(count, Mp, D, normed, Dp, 1, wup, Mp, u, Mp, 1);
            for (int64_t i = 0; i < count * Mp; i += W) {
                ivec negative = *(vec *)(u + i) < 0.0f; /* NaN isn't, and stays */
                *(ivec *)(u + i) &= ~negative;
            }
            product(count, Dp, M, u, Mp, 1, wdown, Dp, y, Dp, 0);
            for (int64_t i = 0; i < count; i++)
                for (int64_t d = 0; d < D; d++) z[i * D + d] = x[i * D + d] + y[i * Dp + d];
        }
    }
    free(memory);
    return 0;
}

int mlp_backward(
    int64_t replicas, int64_t tokens, int64_t D, int64_t M, const float *h, const float *up,
    const float *down, const int64_t *rows, const float *hidden, const float *grad, float *grad_h,
    float *grad_up, float *grad_bias, float *grad_down)
{
    const int64_t Dp = pad(D), Mp = pad(M);
    float *memory = scratch(
        M * Dp + D * Mp + D * Mp + Mp + M * Dp + 3 * BLOCK * Dp + BLOCK * Mp + BLOCK);
    if (memory == NULL) return 1;
    float *wupt = memory, *wdownt = wupt + M * Dp, *gup = wdownt + D * Mp, *gbias = gup + D * Mp;
    float *gdown = gbias + Mp, *normed = gdown + M * Dp, *g = normed + BLOCK * Dp;
    float *gn = g + BLOCK * Dp, *gu = gn + BLOCK * Dp, *rstd = gu + BLOCK * Mp;
    for (int64_t r = 0; r < replicas; r++) {
        pack_transposed(D, M, up + r * rows[0], M, wupt);
        pack_transposed(M, D, down + r * rows[2], D, wdownt);
        memset(gup, 0, (D * Mp + Mp + M * Dp) * sizeof(float));
        for (int64_t start = 0; start < tokens; start += BLOCK) {
            int64_t count = tokens - start < BLOCK ? tokens - start : BLOCK;
            const float *x = h + (r * tokens + start) * D;
            const float *u = hidden + (r * tokens + start) * Mp;
            float *gx = grad_h + (r * tokens + start) * D;
            norm(count, D, x, normed, rstd);
            pack(count, D, grad + (r * tokens + start) * D, D, g);
            product(M, Dp, count, u, 1, Mp, g, Dp, gdown, Dp, 1);
            product(count, Mp, D, g, Dp, 1, wdownt, Mp, gu, Mp, 0);
            for (int64_t i = 0; i < count; i++)
                for (int64_t j = 0; j < Mp; j += W) {
                    ivec dead = *(const vec *)(u + i * Mp + j) <= 0.0f;
                    *(ivec *)(gu + i * Mp + j) &= ~dead;
                    *(vec *)(gbias + j) += *(vec *)(gu + i * Mp + j);
                }
            product(D, Mp, count, normed, 1, Dp, gu, Mp, gup, Mp, 1);
            product(count, Dp, M, gu, Mp, 1, wupt, Dp, gn, Dp, 0);
            norm_backward(count, D, gn, normed, rstd, gx);
            for (int64_t i = 0; i < count; i++)
                for (int64_t d = 0; d < D; d++) gx[i * D + d] += g[i * Dp + d];
        }
        unpack(D, M, gup, grad_up + r * D * M, M);
        unpack(1, M, gbias, grad_bias + r * M, M);
        unpack(M, D, gdown, grad_down + r * M * D, D);
    }
    free(memory);
    return 0;
}
