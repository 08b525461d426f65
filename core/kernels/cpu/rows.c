/* Functions of the rows of a matrix, each row by itself, float32: layer norm, the loss of predictions,
 * means. */
#include "vectors.h"

/* y = norm(x), rows x D; rstd of each row is kept. */
int norm_forward(int64_t rows, int64_t D, const float *x, float *y, float *rstd)
{
    float row[pad(D)];
    for (int64_t s = 0; s < rows; s++) {
        norm(1, D, x + s * D, row, rstd + s);
        memcpy(y + s * D, row, D * sizeof(float));
    }
    return 0;
}

int norm_gradient(
    int64_t rows, int64_t D, const float *y, const float *rstd, const float *grad, float *grad_x)
{
    float g[pad(D)], y_[pad(D)];
    for (int64_t s = 0; s < rows; s++) {
        pack(1, D, grad + s * D, D, g);
        pack(1, D, y + s * D, D, y_);
        norm_backward(1, D, g, y_, rstd + s, grad_x + s * D);
    }
    return 0;
}

/* Cross-entropy of each row of logits with its label, nats; the probabilities are kept. A label that is
 * no class loses NaN and has no gradient. */
int cross_entropy(int64_t rows, int64_t C, const float *logits, const int64_t *y, float *p, float *loss)
{
    const int64_t width = pad(C);
    float e[width];
    for (int64_t s = 0; s < rows; s++) {
        const float *x = logits + s * C;
        const int known = 0 <= y[s] && y[s] < C;
        float most = x[0], total;
        for (int64_t c = 1; c < C; c++) most = x[c] > most ? x[c] : most;
        for (int64_t c = 0; c < C; c++) e[c] = x[c] - most;
        for (int64_t c = C; c < width; c++) e[c] = -INFINITY;
        for (int64_t c = 0; c < width; c += LANES) *(vec *)(e + c) = exponential(*(vec *)(e + c));
        SUM(total, AT(e));
        /* A total that is no number has no exponent for `logarithm` to find. */
        loss[s] = known && total - total == 0.0f ? logarithm(total) - (x[y[s]] - most) : NAN;
        const float scale = known ? 1.0f / total : 0.0f;
        for (int64_t c = 0; c < C; c++) p[s * C + c] = e[c] * scale;
    }
    return 0;
}

int cross_entropy_gradient(
    int64_t rows, int64_t C, const float *p, const int64_t *y, const float *grad, float *grad_logits)
{
    for (int64_t s = 0; s < rows; s++)
        for (int64_t c = 0; c < C; c++)
            grad_logits[s * C + c] = (p[s * C + c] - (c == y[s] ? 1.0f : 0.0f)) * grad[s];
    return 0;
}

/* The mean of each row, its terms added in float64 in their order. */
int row_means(int64_t rows, int64_t n, const float *x, double *mean)
{
    for (int64_t r = 0; r < rows; r++) {
        double total = 0.0;
        for (int64_t i = 0; i < n; i++) total += x[r * n + i];
        mean[r] = total / n;
    }
    return 0;
}
