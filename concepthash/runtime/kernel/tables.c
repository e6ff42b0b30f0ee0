/* Multi-index hashing: how codes are cut, and how tables are laid out and filled. */
#include "tables.h"

enum { ALIGNMENT = 64 };

/* ---- how codes are cut, and where the arrays of a run lie in its one block of memory ---- */

/* The stretches of contiguous bits of a table. Returns 0 if they are too many or none. */
static int find_pieces(Cut *cut, int t) {
    for (int w = 0; w < cut->words; w++) {
        uint64_t mask = cut->masks[t][w];
        for (int shift = 0; shift < 64; shift++) {
            int bits = 0;
            while (shift + bits < 64 && mask >> (shift + bits) & 1) bits++;
            if (!bits) continue;
            if (cut->width[t] + bits > WIDEST) return 0;
            cut->piece[t][cut->pieces[t]++] =
                (Piece){w, shift, cut->width[t], ((uint32_t)1 << bits) - 1};
            cut->width[t] += bits;
            shift += bits;
        }
    }
    return cut->width[t] > 0;
}

/* Masks (T, W) of the bits each table is over. */
int read_cut(PyObject *object, Cut *cut) {
    Py_buffer view;
    memset(cut, 0, sizeof *cut);
    if (PyObject_GetBuffer(object, &view, PyBUF_ND) < 0) return 0;
    int ready = view.ndim == 2 && view.itemsize == 8 && view.shape[0] >= 1 &&
                view.shape[0] <= MAX_TABLES && view.shape[1] >= 1 && view.shape[1] <= MAX_WORDS;
    if (ready) {
        cut->count = (int)view.shape[0];
        cut->words = (int)view.shape[1];
        for (int t = 0; t < cut->count; t++)
            memcpy(cut->masks[t], (uint64_t *)view.buf + t * cut->words, 8 * (size_t)cut->words);
        for (int t = 0; t < cut->count && ready; t++) ready = find_pieces(cut, t);
    }
    PyBuffer_Release(&view);
    if (!ready) PyErr_SetString(PyExc_ValueError, "tables are masks (T, W) of 1 to 16 bits");
    return ready;
}

/* Claim room for an array in a block of which `used` bytes are taken. */
static void *claim(char *block, size_t *used, size_t size) {
    char *at = block ? block + *used : NULL;
    *used += (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return at;
}

/* How many bits of the next sub-code order a bucket: about 8 to 16 codes should agree in them. */
static int fine_bits(size_t count, int width, int next_width) {
    int bits = 0;
    while (bits < FINEST && bits < next_width && count >> (width + bits + 4)) bits++;
    return bits;
}

/* Lay out a run in `block`, which may be NULL to learn its size. */
static size_t lay_out(Run *run, const Cut *cut, size_t first, size_t count, int copied, char *block) {
    size_t used = 0, padded = (count + LANES - 1) / LANES * LANES;
    run->first = first;
    run->count = count;
    run->row_bits = 1;
    while (run->row_bits < 32 && (count - 1) >> run->row_bits) run->row_bits++;
    for (int t = 0; t < cut->count; t++) {
        Table *table = &run->tables[t];
        int next = next_table(cut, t, 0), next_width = next < 0 ? 0 : cut->width[next];
        table->fine_bits = copied ? 0 : fine_bits(count, cut->width[t], next_width);
        table->spare_bits = next_width - table->fine_bits;
        if (table->spare_bits > 32 - run->row_bits) table->spare_bits = 32 - run->row_bits;
        table->offsets = claim(block, &used, (((size_t)1 << cut->width[t]) + 1) * 4);
        table->fine = table->offsets;
        if (table->fine_bits)
            table->fine = claim(block, &used, (((size_t)1 << (cut->width[t] + table->fine_bits)) + 1) * 4);
        table->rows = claim(block, &used, padded * 4);
        table->pairs = copied ? claim(block, &used, padded * 4) : NULL;
        table->thirds = copied ? claim(block, &used, padded * 2) : NULL;
    }
    return used;
}

int read_run(const Py_buffer *block, const Cut *cut, Py_ssize_t first, Py_ssize_t count,
                    int copied, Run *run) {
    if (first < 0 || count < 1 || (uint64_t)count > UINT32_MAX ||
        lay_out(run, cut, (size_t)first, (size_t)count, copied, block->buf) != (size_t)block->len ||
        (uintptr_t)block->buf % ALIGNMENT) {
        PyErr_SetString(PyExc_ValueError, "the block of a run has another size or is not aligned");
        return 0;
    }
    return 1;
}

PyObject *kernel_tables_size(PyObject *self, PyObject *args) {
    PyObject *tables;
    Py_ssize_t count;
    int copied;
    Cut cut;
    Run run;
    (void)self;
    if (!PyArg_ParseTuple(args, "Onp", &tables, &count, &copied) || !read_cut(tables, &cut)) return NULL;
    return PyLong_FromSize_t(lay_out(&run, &cut, 0, (size_t)count, copied, NULL));
}

/* ---- building: a counting sort a table ---- */

/* Call for the codes of the run, row by row; `row` counts from its first. */
#define FOR_EACH_CODE(rows, run, words, body)                                    \
    for (size_t p = 0; p < (rows)->part_count; p++) {                            \
        const Part *part = &(rows)->parts[p];                                    \
        size_t begin = (rows)->starts[p], end = (rows)->starts[p + 1];           \
        size_t last = (run)->first + (run)->count;                               \
        if (begin < (run)->first) begin = (run)->first;                          \
        if (end > last) end = last;                                              \
        for (size_t r = begin; r < end; r++) {                                   \
            size_t row = r - (run)->first;                                       \
            load(part, r - (rows)->starts[p], words, code);                      \
            body                                                                 \
        }                                                                        \
    }

static int build_table(const Rows *rows, const Cut *cut, Run *run, int t) {
    Table *table = &run->tables[t];
    int next[NEXT], fine_bits = table->fine_bits;
    for (int j = 0; j < NEXT; j++) next[j] = next_table(cut, t, j);
    int fine_shift = fine_bits ? cut->width[next[0]] - fine_bits : 0;
    size_t buckets = (size_t)1 << (cut->width[t] + fine_bits);
    uint32_t spare = (uint32_t)(((uint64_t)1 << table->spare_bits) - 1), before = 0;
    uint64_t code[MAX_WORDS];
    uint32_t *place = calloc(buckets, sizeof *place);
    if (!place) return 0;
#define PLACE()                                                                        \
    place[fine_bits ? sub_code(cut, t, code) << fine_bits |                            \
                          sub_code(cut, next[0], code) >> fine_shift                   \
                    : sub_code(cut, t, code)]
    FOR_EACH_CODE(rows, run, cut->words, { (void)row; PLACE()++; })
    for (size_t v = 0; v < buckets; v++) {
        uint32_t here = place[v];
        table->fine[v] = place[v] = before;
        before += here;
    }
    table->fine[buckets] = before;
    for (size_t v = 0; v <= (size_t)1 << cut->width[t]; v++) table->offsets[v] = table->fine[v << fine_bits];
    FOR_EACH_CODE(rows, run, cut->words, {
        uint32_t sub[NEXT] = {0};
        for (int j = 0; j < NEXT && next[j] >= 0; j++) sub[j] = sub_code(cut, next[j], code);
        uint32_t at = PLACE()++;
        table->rows[at] = (uint32_t)row;
        if (table->spare_bits) table->rows[at] |= (sub[0] & spare) << run->row_bits;
        if (table->pairs) {
            pair_at(table, at)[0] = (uint16_t)sub[0];
            pair_at(table, at)[LANES] = (uint16_t)sub[1];
            table->thirds[at] = (uint16_t)sub[2];
        }
    })
#undef PLACE
    free(place);
    return 1;
}

/* ---- the Python boundary ---- */

int number_rows(Rows *rows, const Part *parts, size_t count) {
    *rows = (Rows){parts, count, calloc(count + 2, sizeof(size_t)), NULL};
    if (!rows->starts) return 0;
    for (size_t p = 0; p < count; p++) rows->starts[p + 1] = rows->starts[p] + parts[p].rows;
    if (count < 2) return 1;
    size_t blocks = (rows->starts[count] >> BLOCK_BITS) + 1, p = 0;
    rows->blocks = malloc(blocks * sizeof *rows->blocks);
    for (size_t b = 0; rows->blocks && b < blocks; b++) {
        while (p + 1 < count && b << BLOCK_BITS >= rows->starts[p + 1]) p++;
        rows->blocks[b] = (uint32_t)p;
    }
    return rows->blocks != NULL;
}

void forget_rows(Rows *rows) {
    free(rows->starts);
    free(rows->blocks);
}

PyObject *kernel_tables_build(PyObject *self, PyObject *args) {
    PyObject *list, *tables;
    Py_buffer block;
    Py_ssize_t first, count;
    int copied, table, ready = 0;
    Cut cut;
    Run run;
    Rows rows = {0};
    (void)self;
    if (!PyArg_ParseTuple(args, "O!Ow*nnpi", &PyList_Type, &list, &tables, &block, &first, &count,
                          &copied, &table))
        return NULL;
    Held held = {calloc(3 * (size_t)PyList_Size(list) + 1, sizeof(Py_buffer)), 0};
    Part *parts = NULL;
    if (!held.views) {
        PyErr_NoMemory();
        goto done;
    }
    if (!read_cut(tables, &cut) || !read_run(&block, &cut, first, count, copied, &run)) goto done;
    if (!(parts = read_parts(list, cut.words, &held))) goto done;
    ready = number_rows(&rows, parts, (size_t)PyList_Size(list));
    if (ready && (table < 0 || table >= cut.count || rows.starts[rows.part_count] < (size_t)(first + count))) {
        ready = 0;
        PyErr_SetString(PyExc_ValueError, "no such table, or rows beyond the parts");
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS;
    ready = ready && build_table(&rows, &cut, &run, table);
    Py_END_ALLOW_THREADS;
    if (!ready) PyErr_NoMemory();
done:
    forget_rows(&rows);
    for (Py_ssize_t i = 0; i < held.count; i++) PyBuffer_Release(&held.views[i]);
    free(held.views);
    free(parts);
    PyBuffer_Release(&block);
    if (!ready) return NULL;
    Py_INCREF(Py_None);
    return Py_None;
}
