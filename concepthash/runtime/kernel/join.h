/* Pairs of near codes: the self-join behind dedupe. */
#ifndef CHASH_JOIN_H
#define CHASH_JOIN_H

#include "kernel.h"

/* join(codes, masks, words, which, radius, parents, limit, stop): compare the codes that agree under
 * one mask.
 *
 *   codes    (n, W) uint64, contiguous, n below 2**32; W is `words`
 *   masks    (C, W) uint64; `which` is the row of the mask to join on
 *   radius   the largest distance of a pair
 *   parents  (n,) uint32, writable: a forest in which the rows of every pair found are linked, a
 *            root being the smallest row of its tree. Returns None.
 *            Or None: returns bytes of (a, b, distance) uint32 triples, a < b, of the pairs that
 *            agree under this mask and under none before it, so that no pair comes twice.
 *   limit    the most pairs to return; OverflowError beyond
 *   stop     a byte that another thread sets to end this soon, with an InterruptedError */
PyObject *kernel_join(PyObject *self, PyObject *args);

#endif
