/* Products of batches of matrices of any strides: every entry is the sum of its terms in their order,
 * whatever the sizes, so neither the batch nor the CPU shows in it.
 */
#include "vectors.h"

/* C[rows x vectors LANES] (+)= A B; A[i, k] at a[i ai + k ak]; everything constant is unrolled. */
INLINE void tile(
    const int rows, const int vectors, int64_t depth, const float *a, int64_t ai, int64_t ak,
    const float *b, int64_t bk, float *c, int64_t ci, int add)
{
    vec sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++)
            sum[i][j] = add ? *(const vec *)(c + i * ci + j * LANES) : (vec){0};
    for (int64_t k = 0; k < depth; k++) {
        const float *ak_ = a + k * ak;
        const float *b_ = b + k * bk;
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++)
                sum[i][j] = fused(all(ak_[i * ai]), *(const vec *)(b_ + j * LANES), sum[i][j]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++)
            *(vec *)(c + i * ci + j * LANES) = sum[i][j];
}

#define TILE(rows, vectors) \
    tile(rows, vectors, depth, a + i * ai, ai, ak, b + j, bk, c + i * ci + j, ci, add)
#define TILES(vectors) \
    for (i = 0; i + TILE_ROWS <= m; i += TILE_ROWS) TILE(TILE_ROWS, vectors); \
    switch (m - i) { \
    case 7: TILE(TILE_ROWS > 7 ? 7 : 1, vectors); break; \
    case 6: TILE(TILE_ROWS > 6 ? 6 : 1, vectors); break; \
    case 5: TILE(TILE_ROWS > 5 ? 5 : 1, vectors); break; \
    case 4: TILE(TILE_ROWS > 4 ? 4 : 1, vectors); break; \
    case 3: TILE(3, vectors); break; \
    case 2: TILE(2, vectors); break; \
    case 1: TILE(1, vectors); break; \
    }

void product(
    int64_t m, int64_t n, int64_t depth, const float *a, int64_t ai, int64_t ak, const float *b,
    int64_t bk, float *c, int64_t ci, int add)
{
    int64_t i, j = 0;
    for (; j + TILE_VECTORS * LANES <= n; j += TILE_VECTORS * LANES) { TILES(TILE_VECTORS) }
    for (; j + W <= n; j += W) { TILES(PARTS) }
    for (; j + LANES <= n; j += LANES) { TILES(1) }
}

typedef struct {
    int64_t batch, m, n, depth;
    int64_t a_batch, a_row, a_column; /* strides, floats */
    int64_t b_batch, b_row, b_column;
    int64_t c_batch, c_row; /* columns of C are contiguous */
} product_shape;

/* What is packed at a time, so that it stays in the second cache: rows of A whose columns aren't
 * contiguous, and columns of B. */
enum { ROWS = 20 * TILE_ROWS, PANEL = TILE_VECTORS * LANES, COLUMNS = 256, DEPTH = 256 };

/* Rows of B's columns, panel after panel, the last one padded with zeros. */
static void pack_columns(
    int64_t depth, int64_t columns, const float *b, int64_t row, int64_t column, float *to)
{
    for (int64_t k = 0; k < depth; k++, b += row)
        for (int64_t j = 0; j < columns; j += PANEL) {
            const int64_t count = columns - j < PANEL ? columns - j : PANEL, width = pad(count);
            float *row_ = to + j * depth + k * width;
            if (column == 1 && count == PANEL) {
                memcpy(row_, b + j, PANEL * sizeof(float));
                continue;
            }
            for (int64_t l = 0; l < count; l++) row_[l] = b[(j + l) * column];
            for (int64_t l = count; l < width; l++) row_[l] = 0.0f;
        }
}

/* Rows of A, tile after tile, so that those of a tile stand side by side. */
static void pack_rows(
    int64_t rows, int64_t depth, const float *a, int64_t row, int64_t column, float *to)
{
    for (int64_t i = 0; i < rows; i += TILE_ROWS, to += depth * TILE_ROWS) {
        const int64_t count = rows - i < TILE_ROWS ? rows - i : TILE_ROWS;
        const float *from = a + i * row;
        if (row == 1 && count == TILE_ROWS)
            for (int64_t k = 0; k < depth; k++)
                memcpy(to + k * TILE_ROWS, from + k * column, TILE_ROWS * sizeof(float));
        else
            for (int64_t k = 0; k < depth; k++)
                for (int64_t l = 0; l < count; l++)
                    to[k * TILE_ROWS + l] = from[l * row + k * column];
    }
}

/* Between columns of C, `count` of them, and a padded copy. */
static void gather(int64_t m, int64_t count, const float *c, int64_t ci, int64_t cj, float *out)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t l = 0; l < count; l++) out[i * PANEL + l] = c[i * ci + l * cj];
}

static void scatter(int64_t m, int64_t count, const float *out, float *c, int64_t ci, int64_t cj)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t l = 0; l < count; l++) c[i * ci + l * cj] = out[i * PANEL + l];
}

typedef struct {
    float *rows, *columns, *out;
} buffers;

/* Rows of C from rows of A and packed columns of B. */
static void block(
    int64_t m, int64_t n, int64_t depth, const float *a, int64_t ai, int64_t ak, float *c, int64_t ci,
    int64_t cj, int add, buffers at)
{
    if (ak != 1) pack_rows(m, depth, a, ai, ak, at.rows);
    for (int64_t j = 0; j < n; j += PANEL) {
        const int64_t columns = least(n - j, PANEL), width = pad(columns);
        const int direct = cj == 1 && columns == width;
        const float *panel = at.columns + j * depth;
        float *to = direct ? c + j : at.out;
        const int64_t stride = direct ? ci : PANEL;
        if (!direct && add) gather(m, columns, c + j * cj, ci, cj, to);
        if (ak == 1)
            product(m, width, depth, a, ai, 1, panel, width, to, stride, add);
        else
            for (int64_t i = 0; i < m; i += TILE_ROWS)
                product(
                    least(m - i, TILE_ROWS), width, depth, at.rows + i * depth, 1, TILE_ROWS, panel,
                    width, to + i * stride, stride, add);
        if (!direct) scatter(m, columns, to, c + j * cj, ci, cj);
    }
}

/* C = A B. */
static void one(
    int64_t m, int64_t n, int64_t depth, const float *a, int64_t ai, int64_t ak, const float *b,
    int64_t bk, int64_t bj, float *c, int64_t ci, int64_t cj, buffers at)
{
    if (depth == 0)
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) c[i * ci + j * cj] = 0.0f;
    for (int64_t k = 0; k < depth; k += DEPTH)
        for (int64_t j = 0; j < n; j += COLUMNS) {
            const int64_t count = least(depth - k, DEPTH), columns = least(n - j, COLUMNS);
            pack_columns(count, columns, b + k * bk + j * bj, bk, bj, at.columns);
            for (int64_t i = 0; i < m; i += ROWS)
                block(
                    least(m - i, ROWS), columns, count, a + i * ai + k * ak, ai, ak,
                    c + i * ci + j * cj, ci, cj, k > 0, at);
        }
}

/* About how long C takes where B is packed, in units of an element packed by itself. */
static int64_t cost(int64_t m, int64_t n, int64_t depth, int64_t column)
{
    return depth * (m * pad(n) / W + (column == 1 ? n / 8 : n));
}

/* C = A B, or C' = B' A': whichever is less work. The numbers are the same. */
int products(const product_shape *s, const float *a, const float *b, float *c)
{
    const int64_t longest = s->m > s->n ? s->m : s->n, depth = least(s->depth, DEPTH);
    const int64_t rows = least(longest, ROWS), columns = pad(least(longest, COLUMNS));
    float *memory = scratch((rows + TILE_ROWS) * depth + columns * depth + rows * PANEL);
    if (memory == NULL) return 1;
    buffers at = {memory, memory + (rows + TILE_ROWS) * depth, memory};
    at.out = at.columns + columns * depth;
    const int straight = cost(s->m, s->n, s->depth, s->b_column)
        <= cost(s->n, s->m, s->depth, s->a_row) + s->m * s->n;
    for (int64_t r = 0; r < s->batch; r++) {
        const float *a_ = a + r * s->a_batch, *b_ = b + r * s->b_batch;
        float *c_ = c + r * s->c_batch;
        if (straight)
            one(s->m, s->n, s->depth, a_, s->a_row, s->a_column, b_, s->b_row, s->b_column, c_,
                s->c_row, 1, at);
        else
            one(s->n, s->m, s->depth, b_, s->b_column, s->b_row, a_, s->a_column, s->a_row, c_, 1,
                s->c_row, at);
    }
    free(memory);
    return 0;
}
