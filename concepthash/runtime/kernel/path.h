/* One path of the scan: included once for each instruction set by scan.c, which defines, and has
 * undefined again,
 *
 *   PATH(name)        the name with the suffix of the path
 *   V, LANES          a vector of LANES 64-bit words, with the operators ^ & | ~ << >>
 *   SPLAT(x)          V with x in every word
 *   COUNTS(x)         V with the number of set bits of every word
 *   WEIGHTED(x, w)    V with the set bits of every byte times the byte of w, summed in words
 *   TIMES(x, w)       every word of x, below 2^32, times w
 *   BELOW(a, b, c, d, limit)  V with bits where a word of the four is below that of limit
 *   ANY(x)            whether any bit of x is set
 *   SUM(a, b, c), CARRY(a, b, c)  bitwise full adder
 *
 * Few queries are compared code by code: XOR, popcount, compare with the running limit.
 *
 * A batch is compared in slices. 64 * LANES codes are transposed to bit planes, so that one vector
 * holds one bit of each. Three planes and the three bits a query has there can differ in eight
 * ways: a table holds the sums of differing bits for all eight, two bits wide, and is shared by the
 * whole batch. A query adds the 22 sums of a word with full adders, about 200 bitwise operations
 * for 64 * LANES codes, and compares the sliced totals with its limit. */

#define BLOCK (64 * LANES)

/* The exact distance of the code at `row` of a tile. */
static inline uint32_t PATH(distance)(
    const uint64_t *const *tile, size_t row, const uint64_t *query, const Plan *plan) {
    uint32_t total = 0;
    for (int t = 0; t < plan->terms; t++) {
        uint32_t bits = 0;
        for (int w = 0; w < plan->words; w++)
            bits += POPCOUNT((tile[w][row] ^ query[w]) & plan->masks[t][w]);
        total += plan->weights[t] * bits;
    }
    return total;
}

static inline void PATH(offer)(
    const Part *part, size_t first, const uint64_t *const *tile, size_t row,
    const uint64_t *query, const Plan *plan, int64_t number, Selection *best) {
    size_t at = first + row;
    if (part->dead && part->dead[at]) return;
    uint32_t distance = PATH(distance)(tile, row, query, plan);
    if (distance < best->limit) {
        int64_t id = part->ids ? part->ids[at] : part->first_id + (int64_t)at;
        selection_add(best, distance, number + (int64_t)at, id);
    }
}

/* The distances of LANES codes from `row` on. */
static ALWAYS_INLINE V PATH(distances)(
    const uint64_t *const *tile, size_t row, const uint64_t *query, const Plan *plan, Mode mode) {
    V x, total = SPLAT(0);
    if (mode == PLAIN) {
        memcpy(&x, tile[0] + row, sizeof x);
        return COUNTS(x ^ SPLAT(query[0]));
    }
    if (mode == BYTES) {
        for (int w = 0; w < plan->words; w++) {
            memcpy(&x, tile[w] + row, sizeof x);
            total += WEIGHTED(x ^ SPLAT(query[w]), SPLAT(plan->byte_weights[w]));
        }
        return total;
    }
    for (int t = 0; t < plan->terms; t++) {
        V bits = SPLAT(0);
        for (int w = 0; w < plan->words; w++) {
            memcpy(&x, tile[w] + row, sizeof x);
            bits += COUNTS((x ^ SPLAT(query[w])) & SPLAT(plan->masks[t][w]));
        }
        total += plan->weights[t] == 1 ? bits : TIMES(bits, plan->weights[t]);
    }
    return total;
}

static ALWAYS_INLINE void PATH(compare)(
    const Part *part, size_t first, const uint64_t *const *tile, size_t count,
    const uint64_t *query, const Plan *plan, int64_t number, Selection *best, Mode mode) {
    size_t row = 0;
    V limit = SPLAT(best->limit);
    for (; row + 4 * LANES <= count; row += 4 * LANES) {
        PREFETCH((const char *)(tile[0] + row) + AHEAD);
        if (LANES > 2) PREFETCH((const char *)(tile[0] + row) + AHEAD + 64);
        V a = PATH(distances)(tile, row, query, plan, mode);
        V b = PATH(distances)(tile, row + LANES, query, plan, mode);
        V c = PATH(distances)(tile, row + 2 * LANES, query, plan, mode);
        V d = PATH(distances)(tile, row + 3 * LANES, query, plan, mode);
        if (!ANY(BELOW(a, b, c, d, limit))) continue;
        for (size_t i = row; i < row + 4 * LANES; i++)
            PATH(offer)(part, first, tile, i, query, plan, number, best);
        limit = SPLAT(best->limit);
    }
    for (; row < count; row++) PATH(offer)(part, first, tile, row, query, plan, number, best);
}

/* Exchange the high part of each 2 * j bits of a with the low part of those of b. */
#define EXCHANGE(a, b, j, mask)                   \
    do {                                          \
        V t_ = (((a) >> (j)) ^ (b)) & (mask);     \
        a ^= t_ << (j);                           \
        b ^= t_;                                  \
    } while (0)

/* 64 x 64 bits in each lane: bit i of row j becomes bit j of row i; two halvings a pass. */
static void PATH(transpose)(V *rows) {
    static const uint64_t masks[6] = {0x00000000ffffffffu, 0x0000ffff0000ffffu, 0x00ff00ff00ff00ffu,
                                      0x0f0f0f0f0f0f0f0fu, 0x3333333333333333u, 0x5555555555555555u};
    for (int pass = 0; pass < 3; pass++) {
        const int step = 16 >> 2 * pass; /* of the finer halving; the coarser is twice as wide */
        const V coarse = SPLAT(masks[2 * pass]), fine = SPLAT(masks[2 * pass + 1]);
        for (int first = 0; first < 64; first += 4 * step)
            for (int k = first; k < first + step; k++) {
                V a = rows[k], b = rows[k + step], c = rows[k + 2 * step], d = rows[k + 3 * step];
                EXCHANGE(a, c, 2 * step, coarse);
                EXCHANGE(b, d, 2 * step, coarse);
                EXCHANGE(a, b, step, fine);
                EXCHANGE(c, d, step, fine);
                rows[k] = a;
                rows[k + step] = b;
                rows[k + 2 * step] = c;
                rows[k + 3 * step] = d;
            }
    }
}

/* The bits of one word that one term counts, in groups of three: their planes' tables. */
typedef struct {
    int word, term, bits, groups;
    uint8_t position[WORD_GROUPS * GROUP_BITS];
} PATH(Stretch);

typedef struct {
    V sums[8][2]; /* of pattern p: low and high bit of the number of differing planes */
} PATH(Table);

static void PATH(tabulate)(const V *planes, const PATH(Stretch) * s, PATH(Table) * tables) {
    for (int g = 0; g < s->groups; g++) {
        V p[GROUP_BITS];
        for (int i = 0; i < GROUP_BITS; i++) {
            int bit = GROUP_BITS * g + i;
            p[i] = bit < s->bits ? planes[s->position[bit]] : SPLAT(0);
        }
        V(*sums)[2] = tables[g].sums;
        for (int pattern = 0; pattern < 4; pattern++) {
            V a = pattern & 1 ? ~p[0] : p[0], b = pattern & 2 ? ~p[1] : p[1], c = p[2];
            sums[pattern][0] = SUM(a, b, c);
            sums[pattern][1] = CARRY(a, b, c);
            /* With all three bits turned, what differed agrees: 3 - x is ~x in two bits. */
            sums[7 - pattern][0] = ~sums[pattern][0];
            sums[7 - pattern][1] = ~sums[pattern][1];
        }
        if (3 * g + 3 > s->bits)
            /* A plane that is not there must not differ, whatever the pattern. */
            for (int pattern = 0; pattern < 8; pattern++) {
                V one = SPLAT(0), two = SPLAT(0);
                for (int i = 0; 3 * g + i < s->bits; i++) {
                    V x = pattern >> i & 1 ? ~p[i] : p[i];
                    two |= one & x;
                    one ^= x;
                }
                sums[pattern][0] = one;
                sums[pattern][1] = two;
            }
    }
}

#define ADD(column, x, y, carry)                  \
    do {                                          \
        V x_ = (x), y_ = (y), s_ = column;        \
        column = SUM(x_, y_, s_);                 \
        carry = CARRY(x_, y_, s_);                \
    } while (0)

/* The sums of group g for the pattern of this query, which `index` has as an offset in bytes. */
#define LOOK_UP(g) ((const V *)((const char *)tables[g].sums + index[g]))

/* Four groups into the columns 1 and 2 of a count: three carries of weight 4. */
#define FOUR(g)                                   \
    do {                                          \
        const V *a_ = LOOK_UP(g), *b_ = LOOK_UP(g + 1);                                  \
        const V *c_ = LOOK_UP(g + 2), *d_ = LOOK_UP(g + 3);                               \
        V k_, l_;                                 \
        ADD(n0, a_[0], b_[0], k_);                \
        ADD(n0, c_[0], d_[0], l_);                \
        ADD(n1, a_[1], b_[1], m0);                \
        ADD(n1, c_[1], d_[1], m1);                \
        ADD(n1, k_, l_, m2);                      \
    } while (0)

/* `start` plus the differing bits of a whole word, in seven slices; the eighth is returned. */
static ALWAYS_INLINE V PATH(count_64)(
    const PATH(Table) * tables, const uint16_t *index, const V *start, V *out) {
    V n0 = start[0], n1 = start[1], n2 = start[2], n3 = start[3], n4 = start[4], n5 = start[5];
    const V n6 = start[6];
    V m0, m1, m2, m3, p0, p1, p2, q0, q1, r0, r1;
    FOUR(0);
    ADD(n2, m0, m1, p0);
    m3 = m2;
    FOUR(4);
    ADD(n2, m3, m0, p1);
    ADD(n2, m1, m2, p2);
    ADD(n3, p0, p1, q0);
    FOUR(8);
    ADD(n2, m0, m1, p0);
    ADD(n3, p2, p0, q1);
    ADD(n4, q0, q1, r0);
    m3 = m2;
    FOUR(12);
    ADD(n2, m3, m0, p0);
    ADD(n2, m1, m2, p1);
    ADD(n3, p0, p1, q0);
    FOUR(16);
    ADD(n2, m0, m1, p0);
    m3 = m2;
    const V *a = LOOK_UP(20), *b = LOOK_UP(21);
    ADD(n0, a[0], b[0], m1);
    ADD(n1, a[1], m1, m0); /* the last group has one plane: no high bit */
    ADD(n2, m3, m0, p1);
    ADD(n3, p0, p1, q1);
    ADD(n4, q0, q1, r1);
    ADD(n5, r0, r1, q0);
    out[0] = n0;
    out[1] = n1;
    out[2] = n2;
    out[3] = n3;
    out[4] = n4;
    out[5] = n5;
    out[6] = n6 ^ q0;
    return n6 & q0;
}

/* The differing bits of 16, in five slices. */
static inline void PATH(count_16)(const PATH(Table) * tables, const uint16_t *index, V *out) {
    V n0 = SPLAT(0), n1 = n0, n2 = n0, m0, m1, m2, m3, p0, p1;
    FOUR(0);
    ADD(n2, m0, m1, p0);
    m3 = m2;
    const V *a = LOOK_UP(4), *b = LOOK_UP(5);
    ADD(n0, a[0], b[0], m1);
    ADD(n1, a[1], m1, m0);
    ADD(n2, m3, m0, p1);
    out[0] = n0;
    out[1] = n1;
    out[2] = n2;
    out[3] = p0 ^ p1;
    out[4] = p0 & p1;
}

/* The differing bits of any stretch, in seven slices; tables are padded to four groups. */
static inline void PATH(count_any)(
    const PATH(Table) * tables, const uint16_t *index, int groups, V *out) {
    const V zero = SPLAT(0);
    V n0 = zero, n1 = zero, n2 = zero, n3 = zero, n4 = zero, n5 = zero, n6 = zero;
    for (int g = 0; g < groups; g += 4) {
        V m0, m1, m2, p0, p1, q, r;
        FOUR(g);
        ADD(n2, m0, m1, p0);
        ADD(n2, m2, zero, p1);
        ADD(n3, p0, p1, q);
        ADD(n4, q, zero, r);
        ADD(n5, r, zero, q);
        n6 ^= q;
    }
    out[0] = n0;
    out[1] = n1;
    out[2] = n2;
    out[3] = n3;
    out[4] = n4;
    out[5] = n5;
    out[6] = n6;
}

/* total += 2^shift * count, in slices up to `top`. */
static ALWAYS_INLINE void PATH(accumulate)(
    V *total, int top, const V *count, const int bits, int shift) {
    V carry = SPLAT(0);
    int i = shift;
    for (int j = 0; j < bits && i <= top; i++, j++) ADD(total[i], count[j], carry, carry);
    for (; i <= top; i++) ADD(total[i], carry, SPLAT(0), carry);
}

typedef struct {
    PATH(Stretch) stretches[MAX_STRETCHES];
    int stretch_count;
    int groups; /* of all stretches, each padded to a multiple of four */
    int top;    /* slice of 2^top, above every total; where a total reaches its limit, it is set */
    int whole;  /* all stretches are whole words of weight 1 */
    V *planes;
    PATH(Table) * tables;
    uint16_t *index; /* (count, groups): the pattern of each query in each group, as an offset */
    V *complements; /* of each limit below MAX_LIMITS: 2^top - limit in slices 0..top */
    uint8_t known[MAX_LIMITS];
} PATH(Slicer);

static int PATH(slicer_open)(PATH(Slicer) * s, const Job *job) {
    const Plan *plan = job->plan;
    memset(s, 0, sizeof *s);
    for (int t = 0; t < plan->terms; t++)
        for (int w = 0; w < plan->words; w++) {
            if (!plan->masks[t][w]) continue;
            PATH(Stretch) *one = &s->stretches[s->stretch_count];
            one->word = w;
            one->term = t;
            for (int bit = 0; bit < 64; bit++)
                if (plan->masks[t][w] >> bit & 1) one->position[one->bits++] = (uint8_t)bit;
            one->groups = (one->bits + GROUP_BITS - 1) / GROUP_BITS;
            s->stretch_count++;
            s->groups += (one->groups + 3) & ~3;
        }
    while ((plan->longest + 1) > (uint32_t)1 << s->top) s->top++;
    if (s->top < 7) s->top = 7;
    s->whole = plan->terms == 1 && plan->weights[0] == 1 &&
               plan->longest == 64 * (uint32_t)s->stretch_count;
    s->complements = aligned_new(MAX_LIMITS * (size_t)(s->top + 1) * sizeof(V));
    s->planes = aligned_new(64 * sizeof(V));
    s->tables = aligned_new((size_t)s->groups * sizeof *s->tables);
    s->index = calloc(job->count * (size_t)s->groups + 1, sizeof *s->index);
    if (!s->planes || !s->tables || !s->index || !s->complements) return 0;
    memset(s->tables, 0, (size_t)s->groups * sizeof *s->tables);
    for (size_t q = 0; q < job->count; q++) {
        uint16_t *index = s->index + q * (size_t)s->groups;
        for (int i = 0; i < s->stretch_count; i++) {
            const PATH(Stretch) *one = &s->stretches[i];
            uint64_t word = job->queries[q * (size_t)plan->words + (size_t)one->word];
            for (int bit = 0; bit < one->bits; bit++)
                index[bit / GROUP_BITS] += (uint16_t)(
                    (word >> one->position[bit] & 1) << bit % GROUP_BITS) * 2 * sizeof(V);
            index += (one->groups + 3) & ~3;
        }
    }
    return 1;
}

static void PATH(slicer_close)(PATH(Slicer) * s) {
    aligned_delete(s->planes);
    aligned_delete(s->tables);
    aligned_delete(s->complements);
    free(s->index);
}

/* Transpose a block of a tile and make its tables. Bit r of lane l is row r * LANES + l. */
static void PATH(slice)(
    PATH(Slicer) * s, const uint64_t *const *tile, size_t row, size_t count) {
    PATH(Table) *tables = s->tables;
    int word = -1;
    for (int i = 0; i < s->stretch_count; i++) {
        const PATH(Stretch) *one = &s->stretches[i];
        if (one->word != word) {
            word = one->word;
            size_t bytes = (count < BLOCK ? count : BLOCK) * sizeof(uint64_t);
            memcpy(s->planes, tile[word] + row, bytes);
            memset((char *)s->planes + bytes, 0, 64 * sizeof(V) - bytes);
            PATH(transpose)(s->planes);
        }
        PATH(tabulate)(s->planes, one, tables);
        tables += (one->groups + 3) & ~3;
    }
}

/* 2^top - limit: a total that starts there has slice `top` set once `limit` bits are added. */
static inline const V *PATH(complement)(PATH(Slicer) * s, uint32_t limit, V *room) {
    const V bits[2] = {SPLAT(0), ~SPLAT(0)};
    V *out = limit < MAX_LIMITS ? s->complements + limit * (size_t)(s->top + 1) : room;
    if (limit < MAX_LIMITS && s->known[limit]) return out;
    uint32_t value = ((uint32_t)1 << s->top) - limit;
    for (int i = 0; i <= s->top; i++) out[i] = bits[value >> i & 1];
    if (limit < MAX_LIMITS) s->known[limit] = 1;
    return out;
}

/* Which codes of the block are below the limit of one query, above 0. */
static inline V PATH(near)(
    PATH(Slicer) * s, const Plan *plan, const uint16_t *index, uint32_t limit) {
    V total[MAX_SLICES], count[7], room[MAX_SLICES];
    const PATH(Table) *tables = s->tables;
    const V *start = PATH(complement)(s, limit, room);
    if (s->whole && s->stretch_count == 1) return ~PATH(count_64)(tables, index, start, count);
    memcpy(total, start, (size_t)(s->top + 1) * sizeof(V));
    if (s->whole) {
        for (int w = 0; w < s->stretch_count; w++, tables += 24, index += 24) {
            V carry = PATH(count_64)(tables, index, total, total);
            for (int i = 7; i <= s->top; i++) ADD(total[i], carry, SPLAT(0), carry);
        }
        return ~total[s->top];
    }
    for (int i = 0; i < s->stretch_count; i++) {
        const PATH(Stretch) *one = &s->stretches[i];
        uint32_t weight = plan->weights[one->term];
        if (one->bits == 16)
            PATH(count_16)(tables, index, count);
        else
            PATH(count_any)(tables, index, one->groups, count);
        for (int shift = 0; weight >> shift; shift++) {
            if (!(weight >> shift & 1)) continue;
            if (one->bits < 32)
                PATH(accumulate)(total, s->top, count, 5, shift);
            else
                PATH(accumulate)(total, s->top, count, 7, shift);
        }
        tables += (one->groups + 3) & ~3;
        index += (one->groups + 3) & ~3;
    }
    return ~total[s->top];
}

static inline void PATH(sliced)(
    PATH(Slicer) * s, const Job *job, const Part *part, size_t first,
    const uint64_t *const *tile, size_t count, int64_t number) {
    const Plan *plan = job->plan;
    for (size_t row = 0; row < count; row += BLOCK) {
        size_t rest = count - row;
        PATH(slice)(s, tile, row, rest);
        for (size_t q = 0; q < job->count; q++) {
            Selection *best = &job->best[q];
            if (!best->limit) continue;
            V near = PATH(near)(s, plan, s->index + q * (size_t)s->groups, best->limit);
            if (!ANY(near)) continue;
            uint64_t lanes[LANES], any = 0;
            memcpy(lanes, &near, sizeof lanes);
            for (int l = 0; l < LANES; l++) any |= lanes[l];
            for (size_t r = 0; any; r++, any >>= 1) /* ascending rows: ties are kept in order */
                for (size_t l = 0; any & 1 && l < LANES; l++)
                    if (lanes[l] >> r & 1 && r * LANES + l < rest)
                        PATH(offer)(part, first, tile, row + r * LANES + l,
                                    job->queries + q * (size_t)plan->words, plan, number, best);
        }
    }
}

/* The words of rows first..first+count as planes: where they lie, or copied together. */
static inline void PATH(load)(
    const Part *part, size_t first, size_t count, int words, uint64_t *room,
    const uint64_t **tile) {
    for (int w = 0; w < words; w++) {
        const char *from = part->planes + w * part->plane_stride + (ptrdiff_t)first * part->row_stride;
        if (part->row_stride == sizeof(uint64_t)) {
            tile[w] = (const uint64_t *)from;
            continue;
        }
        uint64_t *to = room + (size_t)w * TILE;
        for (size_t i = 0; i < count; i++) memcpy(to + i, from + (ptrdiff_t)i * part->row_stride, 8);
        tile[w] = to;
    }
}

static int PATH(scan)(const Job *job) {
    const Plan *plan = job->plan;
    PATH(Slicer) slicer;
    int few = job->count < FEW_QUERIES || !plan->terms, ready = 1;
    uint64_t *room = malloc(sizeof(uint64_t) * TILE * (size_t)plan->words);
    if (!few) ready = PATH(slicer_open)(&slicer, job);
    int64_t number = 0;
    for (size_t p = 0; room && ready && p < job->part_count; p++) {
        const Part *part = &job->parts[p];
        for (size_t first = 0; first < part->rows; first += TILE) {
            size_t count = part->rows - first < TILE ? part->rows - first : TILE;
            const uint64_t *tile[MAX_WORDS];
            PATH(load)(part, first, count, plan->words, room, tile);
            if (!few) {
                PATH(sliced)(&slicer, job, part, first, tile, count, number);
                continue;
            }
            for (size_t q = 0; q < job->count; q++) {
                const uint64_t *query = job->queries + q * (size_t)plan->words;
                Selection *best = &job->best[q];
                if (plan->mode == PLAIN)
                    PATH(compare)(part, first, tile, count, query, plan, number, best, PLAIN);
                else if (plan->mode == BYTES)
                    PATH(compare)(part, first, tile, count, query, plan, number, best, BYTES);
                else
                    PATH(compare)(part, first, tile, count, query, plan, number, best, TERMS);
            }
        }
        number += (int64_t)part->rows;
    }
    if (!few) PATH(slicer_close)(&slicer);
    free(room);
    return room && ready;
}

#undef EXCHANGE
#undef FOUR
#undef LOOK_UP
#undef ADD
#undef BLOCK

/* What the next path defines anew. */
#undef PATH
#undef V
#undef LANES
#undef SPLAT
#undef COUNTS
#undef TIMES
#undef WEIGHTED
#undef BELOW
#undef ANY
#undef SUM
#undef CARRY
