/* Multi-index hashing: a search of tables, step by step, the cheapest step first. */
#include "tables.h"

/* What the work of a search takes, in nanoseconds, and how much it may take. */
typedef struct {
    double entry, bucket, looked; /* a candidate, a bucket visited, a bucket counted */
    double trial, budget; /* spent before a prediction is asked for; spent in all */
    double most;          /* spent on one query, if others left theirs */
} Costs;

/* The share of the budget that counting one shell may take. */
static const double COUNTED = 0.004;

/* The counts of candidates at each distance in each table, found out when they are asked for. */
typedef struct {
    int64_t shell[MAX_TABLES][WIDEST + 1]; /* -1: not yet */
    double spent;
} Ledger;

/* The next larger number with as many bits set. */
static inline uint32_t next_pattern(uint32_t m) {
    uint32_t lowest = m & (~m + 1), ripple = m + lowest;
#if defined(__GNUC__) || defined(__clang__)
    return ripple | ((m ^ ripple) >> 2) >> __builtin_ctz(m);
#else
    return ripple | ((m ^ ripple) >> 2) / lowest;
#endif
}

static inline uint32_t first_pattern(int bits) { return ((uint32_t)1 << bits) - 1; }

static double choose(int n, int k) {
    double value = 1;
    for (int i = 1; i <= k; i++) value = value * (n - k + i) / i;
    return value;
}

static double shell_cost(const Search *s, const Costs *costs, Ledger *ledger, int t, int near) {
    int width = s->cut->width[t];
    double buckets = choose(width, near);
    int64_t *count = &ledger->shell[t][near];
    if (*count < 0) {
        const uint32_t *offsets = s->run->tables[t].offsets;
        uint32_t end = (uint32_t)1 << width, pattern = first_pattern(near);
        *count = 0;
        do {
            const uint32_t *at = &offsets[s->sub[t] ^ pattern];
            *count += at[1] - at[0];
            if (!pattern) break;
            pattern = next_pattern(pattern);
        } while (pattern < end);
        ledger->spent += costs->looked * buckets;
    }
    return (double)*count * costs->entry + buckets * costs->bucket;
}

/* The same if it is known or soon counted, else a guess from the last that is, as if codes were
 * spread evenly: counting the buckets of a wide shell takes longer than many a search. */
static double guess_cost(const Search *s, const Costs *costs, Ledger *ledger, int t, int near) {
    double counting = costs->looked * choose(s->cut->width[t], near);
    if (ledger->shell[t][near] >= 0 || counting <= COUNTED * costs->budget) return shell_cost(s, costs, ledger, t, near);
    if (!near) return shell_cost(s, costs, ledger, t, near);
    return guess_cost(s, costs, ledger, t, near - 1) * (s->cut->width[t] - near + 1) / near;
}

/* The table whose next step costs the least for what it adds to the bound, by its buckets' sizes or,
 * if they are not to be counted, by a guess; -1 when one has shown all codes there are. */
static int cheapest(
    const Search *s, const Costs *costs, Ledger *ledger, const int *reach, int count, double *cost) {
    for (;;) {
        int best = -1;
        double least = 0;
        for (int t = 0; t < s->cut->count; t++) {
            if (!s->weight[t]) continue;
            if (reach[t] == s->cut->width[t]) return -1;
            double price = guess_cost(s, costs, ledger, t, reach[t] + 1) / s->weight[t];
            if (best < 0 || price < least) {
                best = t;
                least = price;
            }
        }
        if (!count) {
            *cost = least * s->weight[best];
            return best;
        }
        int known = ledger->shell[best][reach[best] + 1] >= 0;
        *cost = shell_cost(s, costs, ledger, best, reach[best] + 1);
        if (known) return best;
        /* A guess only; now that it is known, another may be cheaper. */
    }
}

/* Whether the whole search stays in its budget, even if no nearer code is found from here on. */
static int affordable(const Search *s, const Costs *costs, Ledger *ledger) {
    int reach[MAX_TABLES];
    double cost, total = 0;
    uint32_t bound = proven(s);
    memcpy(reach, s->reach, sizeof reach);
    while (bound < s->best->limit) {
        int t = cheapest(s, costs, ledger, reach, 0, &cost);
        if (t < 0) break;
        total += cost;
        if (ledger->spent + total > costs->budget) return 0;
        bound += s->weight[t];
        reach[t]++;
    }
    return 1;
}

/* Look at all codes at distance `near` in table t. */
static void visit(Search *s, Sift sift, int t, int near) {
    const uint32_t *offsets = s->run->tables[t].offsets;
    uint32_t end = (uint32_t)1 << s->cut->width[t], pattern = first_pattern(near);
    Bucket batch[BATCH];
    int count = 0;
    do {
        uint32_t value = s->sub[t] ^ pattern;
        batch[count] = (Bucket){value, offsets[value], offsets[value + 1]};
        /* A file may be damaged, so what it says is checked before it is followed. */
        count += batch[count].start < batch[count].end && batch[count].end <= s->run->count;
        if (count == BATCH) {
            sift(s, t, near, batch, count);
            count = 0;
        }
        if (!pattern) break;
        pattern = next_pattern(pattern);
    } while (pattern < end);
    sift(s, t, near, batch, count);
}

/* Search one run for one query. Returns 0 if it would take more than its budget. */
static int search_run(Search *s, Sift sift, const Costs *costs, double *spent) {
    Ledger ledger;
    double cost;
    int paid = 0;
    memset(ledger.shell, -1, sizeof ledger.shell);
    ledger.spent = *spent;
    for (int t = 0; t < s->cut->count; t++) s->reach[t] = -1;
    while (proven(s) < s->best->limit) {
        int t = cheapest(s, costs, &ledger, s->reach, 1, &cost);
        if (t < 0) break;
        if (!paid && ledger.spent + cost > costs->trial) {
            if (!affordable(s, costs, &ledger)) {
                *spent = ledger.spent;
                return 0;
            }
            paid = 1;
        }
        visit(s, sift, t, s->reach[t] + 1);
        ledger.spent += cost;
        s->reach[t]++;
    }
    *spent = ledger.spent;
    return 1;
}

/* The least weight of any bit of a table, and whether all have it. */
static uint32_t table_weight(const Cut *cut, const Plan *plan, int t, int *uniform) {
    uint32_t least = 0;
    int seen = 0;
    *uniform = 0;
    for (int term = 0; term < plan->terms; term++) {
        int bits = 0;
        for (int w = 0; w < cut->words; w++)
            bits += (int)POPCOUNT(cut->masks[t][w] & plan->masks[term][w]);
        if (bits && (!seen || plan->weights[term] < least)) least = plan->weights[term];
        *uniform |= bits == cut->width[t];
        seen += bits;
    }
    *uniform |= !seen;
    return seen == cut->width[t] ? least : 0;
}

/* Where a search of some runs begins. Returns 0 if no table is of use. */
static int begin(Search *s, const Run *runs) {
    int useful = 0;
    s->run = runs;
    s->exact = s->cut->count <= NEXT + 1;
    for (int t = 0; t < s->cut->count; t++) {
        int uniform;
        s->weight[t] = table_weight(s->cut, s->plan, t, &uniform);
        s->sub[t] = sub_code(s->cut, t, s->query);
        s->exact &= uniform;
        useful |= s->weight[t] != 0;
    }
    return useful;
}

/* The distance of a code met in the query's own bucket of a table; UINT32_MAX if it is dead or in
 * that of a table before, so that no code counts twice. */
static uint32_t met(const Search *s, int table, size_t row) {
    size_t at;
    const Part *part = find_part(s->rows, row, &at);
    if (part->dead && part->dead[at]) return UINT32_MAX;
    uint64_t x[MAX_WORDS];
    load(part, at, s->cut->words, x);
    for (int w = 0; w < s->cut->words; w++) x[w] ^= s->query[w];
    for (int t = 0; t < table; t++) {
        uint64_t differs = 0;
        for (int w = 0; w < s->cut->words; w++) differs |= x[w] & s->cut->masks[t][w];
        if (!differs && s->weight[t]) return UINT32_MAX;
    }
    uint32_t distance = 0;
    for (int t = 0; t < s->plan->terms; t++)
        for (int w = 0; w < s->cut->words; w++)
            distance += s->plan->weights[t] * POPCOUNT(x[w] & s->plan->masks[t][w]);
    return distance;
}

/* A few rows of the query's own bucket of a table: their number, rows from the first of the run. */
static size_t few_rows(const Search *s, int t, size_t most, uint32_t *list) {
    const Run *run = s->run;
    const Table *in = &run->tables[t];
    uint32_t low = run->row_bits < 32 ? (1u << run->row_bits) - 1 : ~0u;
    uint32_t start = in->offsets[s->sub[t]], end = in->offsets[s->sub[t] + 1];
    size_t listed = 0;
    if (!s->weight[t] || start >= end || end > run->count) return 0;
    if (in->fine_bits) { /* those that are near in the next table too */
        int next = next_table(s->cut, t, 0), shift = s->cut->width[next] - in->fine_bits;
        uint32_t fine = in->fine[s->sub[t] << in->fine_bits | s->sub[next] >> shift];
        if (start < fine && fine < end) start = fine;
    }
    for (; start < end && listed < most; start++)
        if ((in->rows[start] & low) < run->count) list[listed++] = in->rows[start] & low;
    return listed;
}

/* A distance within which k codes lie, from a few that share a sub-code with the query; at most
 * `bound`. Known before the search begins, it tells what that will cost. */
static uint32_t preview(const Search *s, size_t k, uint32_t bound) {
    uint32_t list[PREVIEW], nearest[PREVIEW];
    size_t at, listed[MAX_TABLES], count = 0, total = 0, each = PREVIEW / (size_t)s->cut->count;
    for (int t = 0; t < s->cut->count; t++) total += listed[t] = few_rows(s, t, each, list + total);
    for (size_t i = 0; i < total; i++) {
        const Part *part = find_part(s->rows, s->run->first + list[i], &at);
        for (int w = 0; w < s->cut->words; w++) PREFETCH(word_at(part, at, w));
    }
    const uint32_t *row = list;
    for (int t = 0; t < s->cut->count; t++)
        for (size_t i = 0; i < listed[t]; i++) {
            uint32_t distance = met(s, t, s->run->first + *row++);
            if (distance >= bound || (count == k && distance >= nearest[k - 1])) continue;
            size_t place = count < k ? count++ : k - 1;
            for (; place && nearest[place - 1] > distance; place--) nearest[place] = nearest[place - 1];
            nearest[place] = distance;
        }
    return count < k ? bound : nearest[k - 1];
}

/* A run may take its share of the budget and what those before it left. One that would take more
 * tells that all will, before they have. */
static int search(
    Search *s, const Run *runs, size_t run_count, Sift sift, const Costs *costs, double *spent) {
    double rows = 0, seen = 0;
    for (size_t r = 0; r < run_count; r++) rows += (double)runs[r].count;
    for (size_t r = 0; r < run_count; r++) {
        Costs own = *costs;
        seen += (double)runs[r].count;
        own.budget *= seen / rows;
        s->run = &runs[r];
        if (!search_run(s, sift, &own, spent)) return 0;
    }
    return 1;
}

/* ---- the Python boundary ---- */

/* The runs of a list of (block, first, count). */
static Run *read_runs(PyObject *list, const Cut *cut, int copied, Held *held) {
    Py_ssize_t count = PyList_Size(list);
    Run *runs = calloc((size_t)count + 1, sizeof *runs);
    if (!runs) PyErr_NoMemory();
    for (Py_ssize_t r = 0; runs && r < count; r++) {
        PyObject *object;
        Py_ssize_t first, rows;
        Py_buffer *block = NULL;
        if (!PyArg_ParseTuple(PyList_GetItem(list, r), "Onn", &object, &first, &rows) ||
            !(block = hold(held, object)) || !read_run(block, cut, first, rows, copied, &runs[r])) {
            free(runs);
            return NULL;
        }
    }
    return runs;
}

/* Scan for the queries that gave up, all at once. Returns 0 if memory ran out. */
static int scan_rest(
    Scan scan, const Job *job, size_t k, uint32_t bound, int ascending, char *gave_up) {
    size_t words = (size_t)job->plan->words, left = 0;
    for (size_t q = 0; q < job->count; q++) left += gave_up[q] != 0;
    if (!left) return 1;
    uint64_t *queries = malloc(left * words * sizeof *queries);
    Selection *best = calloc(left, sizeof *best);
    int ready = queries && best;
    for (size_t q = 0, i = 0; ready && q < job->count; q++) {
        if (!gave_up[q]) continue;
        memcpy(queries + i * words, job->queries + q * words, words * sizeof *queries);
        ready = selection_open(&best[i++], k, bound, ascending);
    }
    Job rest = {job->parts, job->part_count, queries, left, job->plan, best};
    ready = ready && scan(&rest);
    for (size_t q = 0, i = 0; best && q < job->count; q++) {
        if (!gave_up[q]) continue;
        selection_close(&job->best[q]);
        job->best[q] = best[i++];
        ready = ready && !job->best[q].failed;
        if (ready) selection_finish(&job->best[q]);
        gave_up[q] = 2; /* and was scanned */
    }
    free(queries);
    free(best);
    return ready;
}

PyObject *kernel_tables_search(PyObject *self, PyObject *args) {
    const char *path;
    PyObject *part_list, *run_list, *queries, *masks, *weights, *tables, *result = NULL;
    long long k;
    unsigned int bound;
    int copied, scanned, ascending;
    Costs costs;
    Cut cut;
    (void)self;
    if (!PyArg_ParseTuple(args, "sO!OOOLIOO!ppp(dddddd)", &path, &PyList_Type, &part_list, &queries,
                          &masks, &weights, &k, &bound, &tables, &PyList_Type, &run_list, &copied,
                          &scanned, &ascending, &costs.entry, &costs.bucket, &costs.looked, &costs.trial, &costs.budget, &costs.most))
        return NULL;
    Scan scan = find_path(path);
    if (!scan) return NULL;
    size_t part_count = (size_t)PyList_Size(part_list), run_count = (size_t)PyList_Size(run_list);
    Held held = {calloc(3 * part_count + run_count + 4, sizeof(Py_buffer)), 0};
    Plan *plan = malloc(sizeof *plan);
    Part *parts = NULL;
    Run *runs = NULL;
    Rows rows = {0};
    Selection *best = NULL;
    char *gave_up = NULL;
    size_t count = 0;
    if (!held.views || !plan) {
        PyErr_NoMemory();
        goto done;
    }
    Py_buffer *asked = hold(&held, queries);
    if (!asked || !read_cut(tables, &cut)) goto done;
    if (asked->ndim != 2 || asked->itemsize != 8 || asked->shape[1] != cut.words ||
        asked->len != asked->shape[0] * asked->shape[1] * 8) {
        PyErr_SetString(PyExc_ValueError, "queries are contiguous (q, W) 8-byte words");
        goto done;
    }
    count = (size_t)asked->shape[0];
    if (!read_plan(masks, weights, cut.words, &held, plan)) goto done;
    if (!(parts = read_parts(part_list, cut.words, &held))) goto done;
    if (!(runs = read_runs(run_list, &cut, copied, &held))) goto done;
    best = calloc(count + 1, sizeof *best);
    gave_up = calloc(count + 1, 1);
    if (!best || !gave_up || !number_rows(&rows, parts, part_count)) {
        PyErr_NoMemory();
        goto done;
    }
    for (size_t r = 0; r < run_count; r++)
        if (runs[r].first + runs[r].count > rows.starts[part_count]) {
            PyErr_SetString(PyExc_ValueError, "tables of rows beyond the parts");
            goto done;
        }
    int ready = 1;
    Sift sift = find_sift(path, copied);
    Py_BEGIN_ALLOW_THREADS;
    size_t failures = 0;
    double pool = 0;
    for (size_t q = 0; q < count && ready; q++) {
        if (q == SAMPLE && count > 2 * SAMPLE && 2 * failures > SAMPLE) {
            /* Most of a few need a scan, so all get one: a scan is cheap for a whole batch only. */
            memset(gave_up, 1, count);
            for (size_t p = 0; p < q; p++) best[p].count = 0;
            break;
        }
        Search s = {.cut = &cut, .plan = plan, .rows = &rows, .best = &best[q]};
        s.query = (const uint64_t *)asked->buf + q * (size_t)cut.words;
        int useful = run_count && begin(&s, runs);
        uint32_t nearest = useful && k <= PREVIEW ? preview(&s, (size_t)k, bound) : bound;
        ready = selection_open(&best[q], (size_t)k, nearest, 0);
        if (!ready) break;
        /* What easy queries leave of their budgets, hard ones may use: the batch keeps within all. */
        pool += costs.budget;
        Costs own = costs;
        own.budget = pool < costs.most ? pool : costs.most;
        double spent = 0;
        gave_up[q] = !useful || !search(&s, runs, run_count, sift, &own, &spent);
        pool -= spent;
        ready = !best[q].failed;
        selection_finish(&best[q]);
        if (gave_up[q]) best[q].count = 0;
        failures += gave_up[q];
    }
    Job job = {parts, part_count, asked->buf, count, plan, best};
    if (ready && scanned) ready = scan_rest(scan, &job, (size_t)k, bound, ascending, gave_up);
    Py_END_ALLOW_THREADS;
    PyObject *found = ready ? answer(best, count) : PyErr_NoMemory();
    if (found) result = Py_BuildValue("(Ny#)", found, gave_up, (Py_ssize_t)count);
done:
    for (size_t q = 0; best && q < count; q++) selection_close(&best[q]);
    for (Py_ssize_t i = 0; i < held.count; i++) PyBuffer_Release(&held.views[i]);
    forget_rows(&rows);
    free(held.views);
    free(plan);
    free(parts);
    free(runs);
    free(best);
    free(gave_up);
    return result;
}
