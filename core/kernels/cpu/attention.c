/* The attention block of core/architectures/blocks.py on a CPU core, forward and backward, float32.
 *
 * A sequence is small (16 to 200 tokens of width 2 to 64), so all of a block's work on it stays in
 * the first caches, and the weights of a replica are packed once a call. Sequences are handled one
 * after the other and in the same order whatever the pack, so a replica's numbers don't depend on
 * its neighbours.
 */
#include "vectors.h"

/* Causal softmax of scores held with keys in rows and queries in lanes, so that no reduction runs
 * across a vector. Query i, at token i stride, sees keys 0 ... i stride; the rest becomes 0. */
static void softmax(float *t, int64_t keys, int64_t queries, int64_t stride)
{
    const int64_t width = pad(queries);
    for (int64_t j = 0; j < width; j += LANES) {
        ivec position = lanes(j) * (int32_t)stride;
        int64_t whole = j * stride + 1; /* keys that all of these queries see */
        int64_t seen = (j + LANES - 1) * stride + 1; /* and that any of them sees */
        whole = whole < keys ? whole : keys;
        seen = seen < keys ? seen : keys;
        vec most = *(vec *)(t + j);
        for (int64_t s = 1; s < seen; s++) {
            vec x = *(vec *)(t + s * width + j);
            most = chosen((x > most) & (position >= (int32_t)s), x, most);
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

/* Turns g, the gradient of probabilities, into that of scores, p (g - sum over keys of p g). */
static void softmax_backward(
    const float *p, float *g, int64_t keys, int64_t queries, int64_t stride)
{
    const int64_t width = pad(queries);
    for (int64_t j = 0; j < width; j += LANES) {
        const int64_t seen = least((j + LANES - 1) * stride + 1, keys);
        vec dot = {0};
        for (int64_t s = 0; s < seen; s++)
            dot = fused(*(const vec *)(p + s * width + j), *(vec *)(g + s * width + j), dot);
        for (int64_t s = 0; s < seen; s++) {
            vec *to = (vec *)(g + s * width + j);
            *to = *(const vec *)(p + s * width + j) * (*to - dot);
        }
        for (int64_t s = seen; s < keys; s++) *(vec *)(g + s * width + j) = (vec){0};
    }
}

/* Products of a head without what the causal mask makes 0. Scores have keys in rows and queries, at
 * tokens 0, stride, 2 stride ..., in columns; a term that is 0 changes no bit of a sum. */

enum { ROWS_AT_ONCE = 2 * TILE_ROWS };

/* scores[keys x queries] = rows[keys x K] columns[K x queries], where some query of W sees the key. */
static void scores_of(
    int64_t keys, int64_t queries, int64_t stride, int64_t K, const float *rows, int64_t row,
    const float *columns, float *scores)
{
    const int64_t width = pad(queries);
    for (int64_t j = 0; j < width; j += W)
        product(
            least((j + W - 1) * stride + 1, keys), W, K, rows, row, 1, columns + j, width, scores + j,
            width, 0);
}

/* mixed[queries x K] = scores' values[keys x K]. */
static void over_keys(
    int64_t keys, int64_t queries, int64_t stride, int64_t K, const float *scores,
    const float *values, float *mixed)
{
    const int64_t width = pad(queries), Kp = pad(K);
    for (int64_t i = 0; i < queries; i += ROWS_AT_ONCE)
        product(
            least(ROWS_AT_ONCE, queries - i), filled(K),
            least((i + ROWS_AT_ONCE - 1) * stride + 1, keys), scores + i, 1, width, values, Kp,
            mixed + i * Kp, Kp, 0);
}

/* mixed[keys x K] = scores values[queries x K]. */
static void over_queries(
    int64_t keys, int64_t queries, int64_t stride, int64_t K, const float *scores,
    const float *values, float *mixed)
{
    const int64_t width = pad(queries), Kp = pad(K);
    for (int64_t s = 0; s < keys; s += ROWS_AT_ONCE) {
        const int64_t first = least((s + stride - 1) / stride, queries);
        product(
            least(ROWS_AT_ONCE, keys - s), filled(K), queries - first, scores + s * width + first,
            width, 1, values + first * Kp, Kp, mixed + s * Kp, Kp, 0);
    }
}

typedef struct {
    int64_t replicas, sequences; /* of each replica */
    int64_t L, D, heads, K;      /* tokens of a sequence, width, heads, key size */
    int64_t stride;              /* outputs at tokens 0, stride, 2 stride ... */
    const float *rotation;       /* L x K/2 x (cos, sin), or NULL */
} attention_shape;

static int64_t read_tokens(const attention_shape *a) { return (a->L + a->stride - 1) / a->stride; }

/* Floats kept of a sequence for the backward pass: queries, keys and values, probabilities, mixed
 * values, 1 / deviation of layer norm. */
int64_t attention_kept(const attention_shape *a)
{
    int64_t Q = read_tokens(a), HK = pad(a->heads * a->K), KV = pad(2 * a->heads * a->K);
    return 2 * Q * HK + a->L * KV + a->heads * a->L * pad(Q) + pad(a->L);
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
    k.p = k.kv + a->L * KV;
    k.mixed = k.p + a->heads * a->L * pad(Q);
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
                pair[0] = __builtin_fmaf(x, c, -y * s);
                pair[1] = __builtin_fmaf(x, s, y * c);
            }
    }
}

/* h, out: as in core/architectures/blocks.py; a replica's weights start `rows` floats after those of the
 * one before. Returns 0, or 1 if there is no memory. */
int attention_forward(
    const attention_shape *a, const float *h, const float *q, const float *kv, const float *out,
    const int64_t *rows, float *keep, float *result)
{
    const int64_t L = a->L, D = a->D, K = a->K, HK = a->heads * K, Q = read_tokens(a);
    const int64_t Dp = pad(D), HKp = pad(HK), KVp = pad(2 * HK), Kp = pad(K), Qp = pad(Q);
    float *memory = scratch(D * (HKp + KVp) + HK * Dp + L * Dp + K * Qp + L * Kp + Q * Kp + Q * Dp);
    if (memory == NULL) return 1;
    float *wq = memory, *wkv = wq + D * HKp, *wout = wkv + D * KVp, *normed = wout + HK * Dp;
    float *qt = normed + L * Dp, *vh = qt + K * Qp, *oh = vh + L * Kp, *y = oh + Q * Kp;
    const float scale = 1.0f / sqrtf((float)K);
    for (int64_t r = 0; r < a->replicas; r++) {
        pack(D, HK, q + r * rows[0], HK, wq);
        pack(D, 2 * HK, kv + r * rows[1], 2 * HK, wkv);
        pack(HK, D, out + r * rows[2], D, wout);
        for (int64_t b = 0; b < a->sequences; b++) {
            const float *x = h + (r * a->sequences + b) * L * D;
            float *z = result + (r * a->sequences + b) * Q * D;
            kept k = kept_of(a, keep + (r * a->sequences + b) * attention_kept(a));
            norm(L, D, x, normed, k.rstd);
            product(Q, HKp, D, normed, a->stride * Dp, 1, wq, HKp, k.q, HKp, 0);
            product(L, KVp, D, normed, Dp, 1, wkv, KVp, k.kv, KVp, 0);
            turn(a, k.q, Q, HKp, a->stride, 1.0f, scale);
            turn(a, k.kv, L, KVp, 1, 1.0f, 1.0f);
            memset(k.mixed, 0, Q * HKp * sizeof(float));
            for (int64_t head = 0; head < a->heads; head++) {
                float *p = k.p + head * L * Qp; /* keys in rows */
                pack_transposed(Q, K, k.q + head * K, HKp, qt);
                pack(L, K, k.kv + HK + head * K, KVp, vh);
                scores_of(L, Q, a->stride, K, k.kv + head * K, KVp, qt, p);
                softmax(p, L, Q, a->stride);
                over_keys(L, Q, a->stride, K, p, vh, oh);
                unpack(Q, K, oh, k.mixed + head * K, HKp);
            }
            product(Q, filled(D), HK, k.mixed, HKp, 1, wout, Dp, y, Dp, 0);
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
    const int64_t L = a->L, D = a->D, K = a->K, HK = a->heads * K, Q = read_tokens(a);
    const int64_t Dp = pad(D), HKp = pad(HK), KVp = pad(2 * HK), Kp = pad(K), Qp = pad(Q);
    float *memory = scratch(
        HK * Dp + 2 * HK * Dp + D * HKp + D * HKp + D * KVp + HK * Dp + 2 * L * Dp + Q * Dp
        + 2 * Q * HKp + L * KVp + K * Qp + L * Qp + 2 * L * Kp + 3 * Q * Kp + L);
    if (memory == NULL) return 1;
    float *wqt = memory, *wkvt = wqt + HK * Dp, *woutt = wkvt + 2 * HK * Dp;
    float *gwq = woutt + D * HKp, *gwkv = gwq + D * HKp, *gwout = gwkv + D * KVp;
    float *normed = gwout + HK * Dp, *gn = normed + L * Dp, *g = gn + L * Dp, *go = g + Q * Dp;
    float *gq = go + Q * HKp, *gkv = gq + Q * HKp, *gt = gkv + L * KVp, *gp = gt + K * Qp;
    float *kh = gp + L * Qp, *gk = kh + L * Kp, *qh = gk + L * Kp, *gh = qh + Q * Kp;
    float *part = gh + Q * Kp, *unused = part + Q * Kp;
    const float scale = 1.0f / sqrtf((float)K);
    memset(gn, 0, L * Dp * sizeof(float)); /* its sums run over the padding */
    for (int64_t r = 0; r < a->replicas; r++) {
        pack_transposed(D, HK, q + r * rows[0], HK, wqt);
        pack_transposed(D, 2 * HK, kv + r * rows[1], 2 * HK, wkvt);
        pack_transposed(HK, D, out + r * rows[2], D, woutt);
        memset(gwq, 0, (D * HKp + D * KVp + HK * Dp) * sizeof(float));
        for (int64_t b = 0; b < a->sequences; b++) {
            const int64_t n = r * a->sequences + b;
            const float *x = h + n * L * D;
            float *gx = grad_h + n * L * D;
            kept k = kept_of(a, (float *)keep + n * attention_kept(a));
            norm(L, D, x, normed, unused);
            pack(Q, D, grad + n * Q * D, D, g);
            product(HK, filled(D), Q, k.mixed, 1, HKp, g, Dp, gwout, Dp, 1);
            product(Q, HKp, D, g, Dp, 1, woutt, HKp, go, HKp, 0);
            memset(gq, 0, Q * HKp * sizeof(float));
            memset(gkv, 0, L * KVp * sizeof(float));
            for (int64_t head = 0; head < a->heads; head++) {
                const float *p = k.p + head * L * Qp;
                pack_transposed(Q, K, go + head * K, HKp, gt);
                pack(L, K, k.kv + head * K, KVp, kh);
                pack(Q, K, k.q + head * K, HKp, qh);
                pack(Q, K, go + head * K, HKp, gh);
                scores_of(L, Q, a->stride, K, k.kv + HK + head * K, KVp, gt, gp);
                softmax_backward(p, gp, L, Q, a->stride);
                over_keys(L, Q, a->stride, K, gp, kh, part);
                unpack(Q, K, part, gq + head * K, HKp);
                over_queries(L, Q, a->stride, K, gp, qh, gk);
                unpack(L, K, gk, gkv + head * K, KVp);
                over_queries(L, Q, a->stride, K, p, gh, gk);
                unpack(L, K, gk, gkv + HK + head * K, KVp);
            }
            turn(a, gq, Q, HKp, a->stride, -1.0f, scale);
            turn(a, gkv, L, KVp, 1, -1.0f, 1.0f);
            product(D, HKp, Q, normed, 1, a->stride * Dp, gq, HKp, gwq, HKp, 1);
            product(D, KVp, L, normed, 1, Dp, gkv, KVp, gwkv, KVp, 1);
            product(L, filled(D), 2 * HK, gkv, KVp, 1, wkvt, Dp, gn, Dp, 0);
            product(Q, filled(D), HK, gq, HKp, 1, wqt, Dp, gn, a->stride * Dp, 1);
            norm_backward(L, D, gn, normed, k.rstd, gx);
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
