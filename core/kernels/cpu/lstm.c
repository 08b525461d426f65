/* One layer of LSTMs over time, forward and backward, float32: core/architectures/lstm.py's `scan`.
 * Gates of a token are rows of 4 parts (output, input, forget, content), each padded.
 */
#include "vectors.h"

typedef struct {
    int64_t replicas, sequences, L, D;
    int64_t weights; /* floats from one replica's recurrent weights to the next one's */
} lstm_shape;

/* Floats kept of a replica for the backward pass: gates, c and tanh(c), by time and sequence. */
int64_t lstm_kept(const lstm_shape *a) { return a->L * a->sequences * 6 * pad(a->D); }

static void pack_gates(int64_t rows, int64_t D, const float *from, int64_t stride, float *to)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t gate = 0; gate < 4; gate++)
            pack(1, D, from + i * stride + gate * D, D, to + (4 * i + gate) * pad(D));
}

static void unpack_gates(int64_t rows, int64_t D, const float *from, float *to, int64_t stride)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t gate = 0; gate < 4; gate++)
            unpack(1, D, from + (4 * i + gate) * pad(D), to + i * stride + gate * D, D);
}

/* a: what inputs add before the activations, replicas x sequences x L x 4 D, those of the sigmoids
 * halved, as are their weights w, D x 4 D a replica. h: replicas x sequences x L x D. */
int lstm_forward(const lstm_shape *s, const float *a, const float *w, float *keep, float *h)
{
    const int64_t B = s->sequences, L = s->L, D = s->D, Dp = pad(D);
    float *memory = scratch(4 * D * Dp + 2 * B * Dp);
    if (memory == NULL) return 1;
    float *weights = memory, *state = weights + 4 * D * Dp, *content = state + B * Dp;
    for (int64_t r = 0; r < s->replicas; r++) {
        pack_gates(D, D, w + r * s->weights, 4 * D, weights);
        memset(state, 0, 2 * B * Dp * sizeof(float));
        for (int64_t t = 0; t < L; t++) {
            float *gates = keep + r * lstm_kept(s) + t * B * 6 * Dp;
            float *contents = gates + B * 4 * Dp, *tanhs = contents + B * Dp;
            pack_gates(B, D, a + (r * B * L + t) * 4 * D, L * 4 * D, gates);
            product(B, 4 * Dp, D, state, Dp, 1, weights, 4 * Dp, gates, 4 * Dp, 1);
            for (int64_t b = 0; b < B; b++) {
                float *gate = gates + b * 4 * Dp, *c = content + b * Dp, *h_ = state + b * Dp;
                for (int64_t d = 0; d < Dp; d += LANES) {
                    vec o = fused(hyperbolic_tangent(*(vec *)(gate + d)), all(0.5f), all(0.5f));
                    vec i = fused(hyperbolic_tangent(*(vec *)(gate + Dp + d)), all(0.5f), all(0.5f));
                    vec f = fused(
                        hyperbolic_tangent(*(vec *)(gate + 2 * Dp + d)), all(0.5f), all(0.5f));
                    vec g = hyperbolic_tangent(*(vec *)(gate + 3 * Dp + d));
                    vec c_ = fused(f, *(vec *)(c + d), i * g), tanh = hyperbolic_tangent(c_);
                    *(vec *)(gate + d) = o;
                    *(vec *)(gate + Dp + d) = i;
                    *(vec *)(gate + 2 * Dp + d) = f;
                    *(vec *)(gate + 3 * Dp + d) = g;
                    *(vec *)(c + d) = *(vec *)(contents + b * Dp + d) = c_;
                    *(vec *)(tanhs + b * Dp + d) = tanh;
                    *(vec *)(h_ + d) = o * tanh;
                }
                memcpy(h + ((r * B + b) * L + t) * D, h_, D * sizeof(float));
            }
        }
    }
    free(memory);
    return 0;
}

/* grad: of h; grad_a as a; grad_w: D x 4 D a replica. */
int lstm_backward(
    const lstm_shape *s, const float *w, const float *h, const float *keep, const float *grad,
    float *grad_a, float *grad_w)
{
    const int64_t B = s->sequences, L = s->L, D = s->D, Dp = pad(D);
    float *memory = scratch(8 * Dp * Dp + B * 4 * Dp + 3 * B * Dp);
    if (memory == NULL) return 1;
    float *weights = memory, *wt = weights + 4 * D * Dp, *g = wt + 4 * Dp * Dp;
    float *grad_h = g + B * 4 * Dp, *grad_c = grad_h + B * Dp, *before = grad_c + B * Dp;
    for (int64_t r = 0; r < s->replicas; r++) {
        float *gw = weights; /* of the padded gates */
        for (int64_t gate = 0; gate < 4; gate++) { /* rows of padded gates, columns of h */
            pack_transposed(D, D, w + r * s->weights + gate * D, 4 * D, wt + gate * Dp * Dp);
            memset(wt + (gate * Dp + D) * Dp, 0, (Dp - D) * Dp * sizeof(float));
        }
        memset(gw, 0, 4 * D * Dp * sizeof(float));
        memset(grad_h, 0, 2 * B * Dp * sizeof(float));
        for (int64_t t = L - 1; t >= 0; t--) {
            const float *gates = keep + r * lstm_kept(s) + t * B * 6 * Dp;
            const float *tanhs = gates + B * 5 * Dp;
            const float *contents = t ? gates - B * 2 * Dp : NULL; /* c before */
            for (int64_t b = 0; b < B; b++) {
                const float *gate = gates + b * 4 * Dp;
                float *gh = grad_h + b * Dp, *gc = grad_c + b * Dp, *to = g + b * 4 * Dp;
                const float *out = grad + ((r * B + b) * L + t) * D;
                for (int64_t d = 0; d < D; d++) gh[d] += out[d];
                for (int64_t d = 0; d < Dp; d += LANES) {
                    vec o = *(vec *)(gate + d), i = *(vec *)(gate + Dp + d);
                    vec f = *(vec *)(gate + 2 * Dp + d), n = *(vec *)(gate + 3 * Dp + d);
                    vec tanh = *(vec *)(tanhs + b * Dp + d), gh_ = *(vec *)(gh + d);
                    vec c = t ? *(vec *)(contents + b * Dp + d) : (vec){0};
                    vec gc_ = fused(o * gh_, fused(-tanh, tanh, all(1.0f)), *(vec *)(gc + d));
                    /* The derivative of a sigmoid in its halved argument is 2 s (1 - s). */
                    *(vec *)(to + d) = gh_ * tanh * 2.0f * fused(-o, o, o);
                    *(vec *)(to + Dp + d) = gc_ * n * 2.0f * fused(-i, i, i);
                    *(vec *)(to + 2 * Dp + d) = gc_ * c * 2.0f * fused(-f, f, f);
                    *(vec *)(to + 3 * Dp + d) = gc_ * i * fused(-n, n, all(1.0f));
                    *(vec *)(gc + d) = gc_ * f;
                }
            }
            unpack_gates(B, D, g, grad_a + (r * B * L + t) * 4 * D, L * 4 * D);
            if (t == 0) break;
            pack(B, D, h + (r * B * L + t - 1) * D, L * D, before);
            product(D, 4 * Dp, B, before, 1, Dp, g, 4 * Dp, gw, 4 * Dp, 1);
            product(B, Dp, 4 * Dp, g, 4 * Dp, 1, wt, Dp, grad_h, Dp, 0);
        }
        unpack_gates(D, D, gw, grad_w + r * D * 4 * D, 4 * D);
    }
    free(memory);
    return 0;
}
