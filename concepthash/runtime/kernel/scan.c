/* The paths of the exact scan, and its Python boundary. */
#include "scan.h"
#include "x86.h"

static void *aligned_new(size_t size) {
    char *raw = malloc(size + 64 + sizeof(void *));
    if (!raw) return NULL;
    uintptr_t at = ((uintptr_t)raw + sizeof(void *) + 63) & ~(uintptr_t)63;
    memcpy((char *)at - sizeof raw, &raw, sizeof raw);
    return (void *)at;
}

static void aligned_delete(void *at) {
    char *raw;
    if (!at) return;
    memcpy(&raw, (char *)at - sizeof raw, sizeof raw);
    free(raw);
}

static inline uint64_t portable_weighted(uint64_t x, uint64_t weights) {
    uint64_t total = 0;
    for (int i = 0; i < 64; i += 8) total += (weights >> i & 255) * POPCOUNT(x >> i & 255);
    return total;
}
/* Portable: one word, whose bits are 64 codes in a slice. */
#define PATH(name) portable_##name
#define V uint64_t
#define LANES 1
#define SPLAT(x) ((uint64_t)(x))
#define COUNTS(x) ((uint64_t)POPCOUNT(x))
#define WEIGHTED(x, w) portable_weighted(x, w)
#define TIMES(x, w) ((x) * (w))
#define BELOW(a, b, c, d, limit) ((a) < (limit) || (b) < (limit) || (c) < (limit) || (d) < (limit))
#define ANY(x) ((x) != 0)
#define SUM(a, b, c) ((a) ^ (b) ^ (c))
#define CARRY(a, b, c) (((a) & (b)) | (((a) ^ (b)) & (c)))
#include "path.h"

#ifdef X86

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,popcnt")
#endif
typedef uint64_t Vector4 __attribute__((vector_size(32), may_alias));
static inline Vector4 avx2_counts(Vector4 x) {
    return (Vector4)_mm256_sad_epu8(byte_counts((__m256i)x), _mm256_setzero_si256());
}
static inline Vector4 avx2_weighted(Vector4 x, Vector4 weights) {
    __m256i pairs = _mm256_maddubs_epi16((__m256i)weights, byte_counts((__m256i)x));
    __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    __m256i words = _mm256_add_epi32(fours, _mm256_srli_epi64(fours, 32));
    return (Vector4)_mm256_and_si256(words, _mm256_set1_epi64x(0xffffffff));
}
static inline Vector4 avx2_nearest_below(Vector4 a, Vector4 b, Vector4 c, Vector4 d, Vector4 limit) {
    __m256i x = _mm256_min_epi32((__m256i)a, (__m256i)b);
    __m256i y = _mm256_min_epi32((__m256i)c, (__m256i)d);
    return (Vector4)_mm256_cmpgt_epi32((__m256i)limit, _mm256_min_epi32(x, y));
}
#define PATH(name) avx2_##name
#define V Vector4
#define LANES 4
#define SPLAT(x) ((Vector4)_mm256_set1_epi64x((long long)(x)))
#define COUNTS(x) avx2_counts(x)
#define WEIGHTED(x, w) avx2_weighted(x, w)
#define TIMES(x, w) ((Vector4)_mm256_mul_epu32((__m256i)(x), _mm256_set1_epi64x(w)))
#define BELOW(a, b, c, d, limit) avx2_nearest_below(a, b, c, d, limit)
#define ANY(x) (!_mm256_testz_si256((__m256i)(x), (__m256i)(x)))
#define SUM(a, b, c) ((a) ^ (b) ^ (c))
#define CARRY(a, b, c) (((a) & (b)) | (((a) ^ (b)) & (c)))
#include "path.h"
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vpopcntdq,avx512bitalg,popcnt"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vpopcntdq,avx512bitalg,popcnt")
#endif
typedef uint64_t Vector8 __attribute__((vector_size(64), may_alias));
static inline Vector8 avx512_weighted(Vector8 x, Vector8 weights) {
    __m512i pairs = _mm512_maddubs_epi16((__m512i)weights, _mm512_popcnt_epi8((__m512i)x));
    __m512i fours = _mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
    __m512i words = _mm512_add_epi32(fours, _mm512_srli_epi64(fours, 32));
    return (Vector8)_mm512_and_si512(words, _mm512_set1_epi64(0xffffffff));
}
static inline Vector8 avx512_nearest_below(Vector8 a, Vector8 b, Vector8 c, Vector8 d, Vector8 limit) {
    __m512i x = _mm512_min_epu32((__m512i)a, (__m512i)b);
    __m512i y = _mm512_min_epu32((__m512i)c, (__m512i)d);
    __mmask8 near = _mm512_cmplt_epu64_mask(_mm512_min_epu32(x, y), (__m512i)limit);
    return (Vector8)_mm512_maskz_set1_epi64(near, -1);
}
#define PATH(name) avx512_##name
#define V Vector8
#define LANES 8
#define SPLAT(x) ((Vector8)_mm512_set1_epi64((long long)(x)))
#define WEIGHTED(x, w) avx512_weighted(x, w)
#define COUNTS(x) ((Vector8)_mm512_popcnt_epi64((__m512i)(x)))
#define TIMES(x, w) ((Vector8)_mm512_mul_epu32((__m512i)(x), _mm512_set1_epi64(w)))
#define BELOW(a, b, c, d, limit) avx512_nearest_below(a, b, c, d, limit)
#define ANY(x) (_mm512_test_epi64_mask((__m512i)(x), (__m512i)(x)) != 0)
#define SUM(a, b, c) ((Vector8)_mm512_ternarylogic_epi64((__m512i)(a), (__m512i)(b), (__m512i)(c), 0x96))
#define CARRY(a, b, c) ((Vector8)_mm512_ternarylogic_epi64((__m512i)(a), (__m512i)(b), (__m512i)(c), 0xe8))
#include "path.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

#if defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
#define NEON_PATH
#include <arm_neon.h>
typedef uint64_t Vector2 __attribute__((vector_size(16), may_alias));
static inline Vector2 neon_weighted(Vector2 x, Vector2 weights) {
    uint8x16_t counts = vcntq_u8((uint8x16_t)x), w = (uint8x16_t)weights;
    uint32x4_t low = vpaddlq_u16(vmull_u8(vget_low_u8(counts), vget_low_u8(w)));
    uint32x4_t high = vpaddlq_u16(vmull_u8(vget_high_u8(counts), vget_high_u8(w)));
    return (Vector2)vpaddlq_u32(vpaddq_u32(low, high));
}
#define PATH(name) neon_##name
#define WEIGHTED(x, w) neon_weighted(x, w)
#define V Vector2
#define LANES 2
#define SPLAT(x) ((Vector2)vdupq_n_u64(x))
#define COUNTS(x) ((Vector2)vpaddlq_u32(vpaddlq_u16(vpaddlq_u8(vcntq_u8((uint8x16_t)(x))))))
#define TIMES(x, w) ((Vector2)vmulq_n_u32((uint32x4_t)(x), w))
#define BELOW(a, b, c, d, limit)                                                          \
    ((Vector2)vcltq_u64((uint64x2_t)vminq_u32(vminq_u32((uint32x4_t)(a), (uint32x4_t)(b)), \
                                              vminq_u32((uint32x4_t)(c), (uint32x4_t)(d))), \
                        (uint64x2_t)(limit)))
#define ANY(x) (vmaxvq_u32((uint32x4_t)(x)) != 0)
#define SUM(a, b, c) ((a) ^ (b) ^ (c))
#define CARRY(a, b, c) ((Vector2)vbslq_u64((uint64x2_t)((a) ^ (b)), (uint64x2_t)(c), (uint64x2_t)(a)))
#include "path.h"
#endif

typedef struct {
    const char *name;
    Scan scan;
} Path;

/* What this machine can run, the best first. */
static int available(Path *out) {
    int count = 0;
#ifdef X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512bitalg"))
        out[count++] = (Path){"avx512", avx512_scan};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt"))
        out[count++] = (Path){"avx2", avx2_scan};
#endif
#ifdef NEON_PATH
    out[count++] = (Path){"neon", neon_scan};
#endif
    out[count++] = (Path){"portable", portable_scan};
    return count;
}

PyObject *kernel_paths(PyObject *self, PyObject *args) {
    Path paths[4];
    (void)self, (void)args;
    int count = available(paths);
    PyObject *names = PyTuple_New(count);
    for (int i = 0; names && i < count; i++)
        PyTuple_SetItem(names, i, PyUnicode_FromString(paths[i].name));
    return names;
}

Scan find_path(const char *name) {
    Path paths[4];
    int count = available(paths);
    for (int i = 0; i < count; i++)
        if (!strcmp(paths[i].name, name)) return paths[i].scan;
    PyErr_Format(PyExc_ValueError, "no path %s here", name);
    return NULL;
}

Py_buffer *hold(Held *held, PyObject *object) {
    Py_buffer *view = &held->views[held->count];
    if (PyObject_GetBuffer(object, view, PyBUF_STRIDES) < 0) return NULL;
    held->count++;
    return view;
}

static int read_part(PyObject *object, int words, Held *held, Part *part) {
    PyObject *planes, *ids, *dead;
    long long first = 0;
    if (!PyArg_ParseTuple(object, "OOLO", &planes, &ids, &first, &dead)) return 0;
    Py_buffer *view = hold(held, planes);
    if (!view) return 0;
    if (view->ndim != 2 || view->itemsize != 8 || view->shape[0] != words) {
        PyErr_SetString(PyExc_ValueError, "planes are (W, n) of 8-byte words");
        return 0;
    }
    *part = (Part){view->buf, view->strides[0], view->strides[1], (size_t)view->shape[1],
                   NULL, first, NULL};
    if (ids != Py_None) {
        if (!(view = hold(held, ids))) return 0;
        if (view->len != (Py_ssize_t)(8 * part->rows) || view->strides[0] != 8) {
            PyErr_SetString(PyExc_ValueError, "ids are n contiguous int64");
            return 0;
        }
        part->ids = view->buf;
    }
    if (dead != Py_None) {
        if (!(view = hold(held, dead))) return 0;
        if (view->len != (Py_ssize_t)part->rows || view->strides[0] != 1) {
            PyErr_SetString(PyExc_ValueError, "dead are n contiguous bytes");
            return 0;
        }
        part->dead = view->buf;
    }
    return 1;
}

Part *read_parts(PyObject *list, int words, Held *held) {
    Py_ssize_t count = PyList_Size(list);
    if (count < 0) return NULL;
    Part *parts = calloc((size_t)count + 1, sizeof *parts);
    if (!parts) PyErr_NoMemory();
    for (Py_ssize_t p = 0; parts && p < count; p++)
        if (!read_part(PyList_GetItem(list, p), words, held, &parts[p])) {
            free(parts);
            parts = NULL;
        }
    return parts;
}

static Mode plan_mode(Plan *plan) {
    if (plan->terms == 1 && plan->weights[0] == 1 && plan->words == 1 && !~plan->masks[0][0])
        return PLAIN;
    for (int t = 0; t < plan->terms; t++)
        for (int w = 0; w < plan->words; w++)
            for (int i = 0; i < 64; i += 8) {
                uint64_t byte = plan->masks[t][w] >> i & 255;
                if (byte && byte != 255) return TERMS;
                if (byte) plan->byte_weights[w] |= (uint64_t)plan->weights[t] << i;
            }
    return BYTES;
}

int read_plan(PyObject *masks, PyObject *weights, int words, Held *held, Plan *plan) {
    Py_buffer *m = hold(held, masks), *w = m ? hold(held, weights) : NULL;
    if (!w) return 0;
    Py_ssize_t terms = w->len / 4;
    if (terms > MAX_TERMS || m->len != terms * words * 8) {
        PyErr_SetString(PyExc_ValueError, "masks are (T, W) words, weights T uint32");
        return 0;
    }
    memset(plan, 0, sizeof *plan);
    plan->words = words;
    plan->terms = (int)terms;
    for (Py_ssize_t t = 0; t < terms; t++) {
        plan->weights[t] = ((const uint32_t *)w->buf)[t];
        if (plan->weights[t] > 255) {
            PyErr_SetString(PyExc_ValueError, "weights are 0..255");
            return 0;
        }
        for (int i = 0; i < words; i++) {
            plan->masks[t][i] = ((const uint64_t *)m->buf)[t * words + i];
            plan->longest += plan->weights[t] * POPCOUNT(plan->masks[t][i]);
        }
    }
    plan->mode = plan_mode(plan);
    return 1;
}

/* (counts int64, rows int64, distances int32), as bytes: the hits of all queries, one after the other. */
PyObject *answer(Selection *best, size_t count) {
    size_t total = 0;
    for (size_t q = 0; q < count; q++) total += best[q].count;
    PyObject *counts = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(8 * count));
    PyObject *rows = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(8 * total));
    PyObject *distances = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(4 * total));
    if (!counts || !rows || !distances) {
        Py_XDECREF(counts);
        Py_XDECREF(rows);
        Py_XDECREF(distances);
        return NULL;
    }
    int64_t *c = (int64_t *)PyBytes_AsString(counts), *r = (int64_t *)PyBytes_AsString(rows);
    int32_t *d = (int32_t *)PyBytes_AsString(distances);
    for (size_t q = 0; q < count; q++) {
        c[q] = (int64_t)best[q].count;
        for (size_t i = 0; i < best[q].count; i++) {
            *r++ = best[q].hits[i].row;
            *d++ = (int32_t)best[q].hits[i].distance;
        }
    }
    return Py_BuildValue("(NNN)", counts, rows, distances);
}

PyObject *kernel_scan(PyObject *self, PyObject *args) {
    const char *name;
    PyObject *list, *queries, *masks, *weights, *result = NULL;
    long long k;
    unsigned int bound;
    int ascending;
    (void)self;
    if (!PyArg_ParseTuple(args, "sO!OOOLIp", &name, &PyList_Type, &list, &queries, &masks, &weights,
                          &k, &bound, &ascending))
        return NULL;
    Scan run = find_path(name);
    if (!run) return NULL;
    Py_ssize_t part_count = PyList_Size(list);
    Part *parts = NULL;
    Plan *plan = malloc(sizeof *plan);
    Held held = {calloc(3 * (size_t)part_count + 3, sizeof(Py_buffer)), 0};
    Selection *best = NULL;
    size_t count = 0;
    if (!plan || !held.views) {
        PyErr_NoMemory();
        goto done;
    }
    Py_buffer *asked = hold(&held, queries);
    if (!asked) goto done;
    if (asked->ndim != 2 || asked->itemsize != 8 || asked->shape[1] < 1 ||
        asked->shape[1] > MAX_WORDS || asked->strides[1] != 8 ||
        (asked->shape[0] > 1 && asked->strides[0] != 8 * asked->shape[1])) {
        PyErr_SetString(PyExc_ValueError, "queries are contiguous (q, W) 8-byte words");
        goto done;
    }
    int words = (int)asked->shape[1];
    count = (size_t)asked->shape[0];
    if (!(parts = read_parts(list, words, &held))) goto done;
    if (!read_plan(masks, weights, words, &held, plan)) goto done;
    if (!(best = calloc(count + 1, sizeof *best))) {
        PyErr_NoMemory();
        goto done;
    }
    int ready = 1;
    Py_BEGIN_ALLOW_THREADS;
    for (size_t q = 0; q < count && ready; q++)
        ready = selection_open(&best[q], (size_t)k, bound, ascending);
    Job job = {parts, (size_t)part_count, asked->buf, count, plan, best};
    if (ready) ready = run(&job);
    for (size_t q = 0; q < count && ready; q++) {
        ready = !best[q].failed;
        selection_finish(&best[q]);
    }
    Py_END_ALLOW_THREADS;
    result = ready ? answer(best, count) : PyErr_NoMemory();
done:
    for (size_t q = 0; best && q < count; q++) selection_close(&best[q]);
    for (Py_ssize_t i = 0; i < held.count; i++) PyBuffer_Release(&held.views[i]);
    free(held.views);
    free(parts);
    free(plan);
    free(best);
    return result;
}
