/* The Python boundary of the native kernel. */
#include "kernel.h"

PyObject *kernel_paths(PyObject *self, PyObject *args);
PyObject *kernel_scan(PyObject *self, PyObject *args);
#include "join.h"
#include "tables.h"

static PyMethodDef methods[] = {
    {"paths", kernel_paths, METH_NOARGS, "paths() -> names of the paths this machine can run"},
    {"scan", kernel_scan, METH_VARARGS,
     "scan(path, parts, queries, masks, weights, k, bound, ascending) -> (counts, rows, distances)"},
    {"join", kernel_join, METH_VARARGS, "Codes near each other among those that agree under a mask."},
    {"tables_size", kernel_tables_size, METH_VARARGS,
     "tables_size(tables, count, copied) -> bytes the tables of a run of codes take"},
    {"tables_build", kernel_tables_build, METH_VARARGS,
     "tables_build(parts, tables, block, first, count, copied, table): fill one table of a run"},
    {"tables_search", kernel_tables_search, METH_VARARGS,
     "tables_search(path, parts, queries, masks, weights, k, bound, tables, runs, copied, scan_rest, ascending, costs)"
     " -> ((counts, rows, distances), gave_up)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_kernel", "Exact Hamming search over packed codes.", 0, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModuleDef_Init(&module); }
