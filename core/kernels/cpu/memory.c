/* What outer-product memories answer, forward and backward, float32: `answers` of
 * core/architectures/outer_product_memory.py. It is attention without softmax: a score's factor is the
 * exponential of a sum of logarithms of gates.
 */
#include "vectors.h"

typedef struct {
    int64_t sequences, L, heads, K; /* tokens of a sequence, key size */
    int64_t stride;                 /* asked at tokens 0, stride, 2 stride ... */
    float forget_bias;
} memory_shape;

static int64_t asked(const memory_shape *a) { return (a->L + a->stride - 1) / a->stride; }

/* Floats kept of a sequence for the backward pass: for each head its scores, their factors, keys of
 * length 1 and 1 / their lengths, normed answers and 1 / their deviations. */
int64_t memory_kept(const memory_shape *a)
{
    int64_t Q = asked(a), Kp = pad(a->K);
    return a->heads * (2 * a->L * pad(Q) + a->L * Kp + pad(a->L) + Q * Kp + pad(Q));
}

typedef struct {
    float *scores, *factors, *keys, *lengths, *answers, *rstd;
} kept;

static kept kept_of(const memory_shape *a, float *base, int64_t head)
{
    const int64_t Q = asked(a), Kp = pad(a->K);
    kept k;
    k.scores = base + head * (memory_kept(a) / a->heads);
    k.factors = k.scores + a->L * pad(Q);
    k.keys = k.factors + a->L * pad(Q);
    k.lengths = k.keys + a->L * Kp;
    k.answers = k.lengths + pad(a->L);
    k.rstd = k.answers + Q * Kp;
    return k;
}

/* ln sigmoid(x), and its derivative sigmoid(-x). */
static void log_sigmoid(int64_t n, const float *x, float *y)
{
    for (int64_t i = 0; i < n; i += LANES) {
        vec x_ = *(const vec *)(x + i);
        vec least = chosen(x_ < all(0.0f), x_, x_ - x_); /* NaN stays */
        *(vec *)(y + i) = least - logarithm_of_one_more(exponential(-magnitude(x_)));
    }
}

static void log_sigmoid_backward(int64_t n, const float *x, float *g)
{
    for (int64_t i = 0; i < n; i += LANES) {
        vec x_ = *(const vec *)(x + i), e = exponential(-magnitude(x_));
        *(vec *)(g + i) *= chosen(x_ < all(0.0f), all(1.0f), e) / (1.0f + e);
    }
}

/* Cumulated sums in place, and what float32 leaves of them: their differences, which are small where
 * the sums are large, are then as exact as the terms. */
static void totals(int64_t n, float *x, float *rest)
{
    double total = 0.0;
    for (int64_t i = 0; i < n; i++) {
        total += x[i];
        x[i] = (float)total;
        rest[i] = (float)(total - x[i]);
    }
}

/* Gates of a head by time, padded: columns of rows of 2 x heads. */
static void gates_of(
    const memory_shape *a, const float *gates, int64_t head, float *forget, float *write)
{
    const int64_t H = a->heads, padded = pad(a->L);
    for (int64_t s = 0; s < a->L; s++) {
        forget[s] = gates[s * 2 * H + head] + a->forget_bias;
        write[s] = gates[s * 2 * H + H + head];
    }
    for (int64_t s = a->L; s < padded; s++) forget[s] = write[s] = 0.0f;
}

/* q: sequences x Q x (heads K); kv: sequences x L x (2 heads K), keys first; gates: sequences x L x
 * (2 heads), forgetting first; answers as q. */
int memory_forward(
    const memory_shape *a, const float *q, const float *kv, const float *gates, float *keep,
    float *answers)
{
    const int64_t L = a->L, K = a->K, HK = a->heads * K, Q = asked(a);
    const int64_t Kp = pad(K), Qp = pad(Q), Lp = pad(L), width = Kp;
    float *memory = scratch(7 * Lp + K * Qp + L * Kp + Q * Kp);
    if (memory == NULL) return 1;
    float *forget = memory, *write = forget + Lp, *log_f = write + Lp, *log_w = log_f + Lp;
    float *rest = log_w + Lp, *at_query = rest + Lp, *rest_at_query = at_query + Lp;
    float *qt = rest_at_query + Lp, *values = qt + K * Qp, *mixed = values + L * Kp;
    for (int64_t n = 0; n < a->sequences; n++)
        for (int64_t head = 0; head < a->heads; head++) {
            kept k = kept_of(a, keep + n * memory_kept(a), head);
            gates_of(a, gates + n * L * 2 * a->heads, head, forget, write);
            log_sigmoid(Lp, forget, log_f);
            log_sigmoid(Lp, write, log_w);
            totals(L, log_f, rest);
            for (int64_t i = 0; i < Qp; i++) { /* what isn't asked gets a factor of 0 */
                at_query[i] = i < Q ? log_f[i * a->stride] : -1e30f;
                rest_at_query[i] = i < Q ? rest[i * a->stride] : 0.0f;
            }
            pack(L, K, kv + n * L * 2 * HK + head * K, 2 * HK, k.keys);
            for (int64_t s = 0; s < L; s++) {
                float *key = k.keys + s * Kp, squares;
                SUM(squares, AT(key) * AT(key));
                k.lengths[s] = 1.0f / sqrtf(squares + 1e-6f);
                for (int64_t j = 0; j < K; j++) key[j] *= k.lengths[s];
            }
            pack(L, K, kv + n * L * 2 * HK + HK + head * K, 2 * HK, values);
            pack_transposed(Q, K, q + n * Q * HK + head * K, HK, qt);
            product(L, Qp, K, k.keys, Kp, 1, qt, Qp, k.scores, Qp, 0);
            for (int64_t s = 0; s < L; s++)
                for (int64_t i = 0; i < Qp; i += LANES) {
                    const int64_t at = s * Qp + i;
                    vec logarithms = (*(vec *)(at_query + i) - log_f[s])
                        + (*(vec *)(rest_at_query + i) - rest[s]) + log_w[s];
                    ivec later = lanes(i) * (int32_t)a->stride >= (int32_t)s;
                    vec factor = (vec)(later & (ivec)exponential(logarithms));
                    *(vec *)(k.factors + at) = factor;
                    *(vec *)(k.scores + at) *= factor;
                }
            product(Q, Kp, L, k.scores, 1, Qp, values, Kp, mixed, Kp, 0);
            for (int64_t i = 0; i < Q; i++) { /* norm takes rows without their padding */
                float row[K];
                memcpy(row, mixed + i * Kp, K * sizeof(float));
                norm(1, K, row, k.answers + i * Kp, k.rstd + i);
            }
            unpack(Q, K, k.answers, answers + n * Q * HK + head * K, HK);
        }
    free(memory);
    return 0;
}

int memory_backward(
    const memory_shape *a, const float *q, const float *kv, const float *gates, const float *keep,
    const float *grad, float *grad_q, float *grad_kv, float *grad_gates)
{
    const int64_t L = a->L, K = a->K, H = a->heads, HK = H * K, Q = asked(a);
    const int64_t Kp = pad(K), Qp = pad(Q), Lp = pad(L);
    float *memory = scratch(
        4 * Lp + 2 * L * Qp + 3 * L * Kp + 4 * Q * Kp + K * Qp + Q * K + Qp);
    if (memory == NULL) return 1;
    float *forget = memory, *write = forget + Lp, *g_w = write + Lp, *g_f = g_w + Lp;
    float *gp = g_f + Lp, *log = gp + L * Qp, *values = log + L * Qp, *gv = values + L * Kp;
    float *gk = gv + L * Kp, *g = gk + L * Kp, *gm = g + Q * Kp, *queries = gm + Q * Kp;
    float *gq = queries + Q * Kp, *gmt = gq + Q * Kp, *packed = gmt + K * Qp, *column = packed + Q * K;
    for (int64_t n = 0; n < a->sequences; n++)
        for (int64_t head = 0; head < H; head++) {
            kept k = kept_of(a, (float *)keep + n * memory_kept(a), head);
            pack(Q, K, grad + n * Q * HK + head * K, HK, g);
            norm_backward(Q, K, g, k.answers, k.rstd, packed);
            pack(Q, K, packed, K, gm);
            pack_transposed(Q, K, packed, K, gmt);
            pack(L, K, kv + n * L * 2 * HK + HK + head * K, 2 * HK, values);
            pack(Q, K, q + n * Q * HK + head * K, HK, queries);
            product(L, Qp, K, values, Kp, 1, gmt, Qp, gp, Qp, 0);
            product(L, Kp, Q, k.scores, Qp, 1, gm, Kp, gv, Kp, 0);
            memset(column, 0, Qp * sizeof(float));
            for (int64_t s = 0; s < L; s++) {
                float *gp_ = gp + s * Qp, *log_ = log + s * Qp;
                const float *scores = k.scores + s * Qp, *factors = k.factors + s * Qp;
                for (int64_t i = 0; i < Qp; i += LANES) {
                    vec of_log = *(vec *)(gp_ + i) * *(const vec *)(scores + i);
                    *(vec *)(log_ + i) = of_log;
                    *(vec *)(gp_ + i) *= *(const vec *)(factors + i);
                    *(vec *)(column + i) += of_log;
                }
                const int64_t width = Qp;
                SUM(g_w[s], AT(log_));
            }
            product(Q, Kp, L, gp, 1, Qp, k.keys, Kp, gq, Kp, 0);
            product(L, Kp, Q, gp, Qp, 1, queries, Kp, gk, Kp, 0);
            for (int64_t s = 0; s < L; s++) { /* of keys before they were made of length 1 */
                const int64_t width = Kp;
                const float *key = k.keys + s * Kp;
                float *row = gk + s * Kp, along;
                SUM(along, AT(row) * AT(key));
                for (int64_t j = 0; j < K; j++)
                    row[j] = k.lengths[s] * __builtin_fmaf(-key[j], along, row[j]);
            }
            for (int64_t s = 0; s < L; s++) g_f[s] = -g_w[s];
            for (int64_t i = 0; i < Q; i++) g_f[i * a->stride] += column[i];
            for (int64_t s = L - 2; s >= 0; s--) g_f[s] += g_f[s + 1];
            for (int64_t s = L; s < Lp; s++) g_f[s] = g_w[s] = 0.0f;
            gates_of(a, gates + n * L * 2 * H, head, forget, write);
            log_sigmoid_backward(Lp, forget, g_f);
            log_sigmoid_backward(Lp, write, g_w);
            for (int64_t s = 0; s < L; s++) {
                grad_gates[(n * L + s) * 2 * H + head] = g_f[s];
                grad_gates[(n * L + s) * 2 * H + H + head] = g_w[s];
            }
            unpack(Q, K, gq, grad_q + n * Q * HK + head * K, HK);
            unpack(L, K, gk, grad_kv + n * L * 2 * HK + head * K, 2 * HK);
            unpack(L, K, gv, grad_kv + n * L * 2 * HK + HK + head * K, 2 * HK);
        }
    free(memory);
    return 0;
}
