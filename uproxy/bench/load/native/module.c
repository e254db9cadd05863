/* module.c: the Python module uproxy.bench.load._native; see _native.pyi. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "client.h"
#include "server.h"

static const char *const failure_names[FAILURES] = {
    [REFUSED] = "refused", [RESET] = "reset", [TIMEOUT] = "timeout", [END_OF_FILE] = "eof",
    [MISMATCH] = "mismatch", [STATUS] = "status", [UNREACHABLE] = "unreachable",
    [NO_LOCAL_PORT] = "no-local-port", [NO_DESCRIPTOR] = "no-descriptor", [OTHER] = "other",
};

static const char *const workload_names[] = {
    [RR] = "rr", [CRR] = "crr", [STREAM_UP] = "stream-up", [STREAM_DOWN] = "stream-down",
    [STREAM_BOTH] = "stream-both", [UDP_RR] = "udp-rr", [CONNECT] = "connect", [IDLE] = "idle",
};

static int set_workload(struct plan *plan, const char *name)
{
    for (unsigned i = 0; i < sizeof workload_names / sizeof *workload_names; i++)
        if (strcmp(name, workload_names[i]) == 0) {
            plan->workload = (enum workload)i;
            return 1;
        }
    PyErr_Format(PyExc_ValueError, "no workload is called %s", name);
    return 0;
}

static int set_target(struct plan *plan, const char *ip, int port, unsigned scope)
{
    struct sockaddr_in *four = (struct sockaddr_in *)&plan->target;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&plan->target;
    if (inet_pton(AF_INET, ip, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons((uint16_t)port);
        plan->target_length = sizeof *four;
    } else if (inet_pton(AF_INET6, ip, &six->sin6_addr) == 1) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons((uint16_t)port);
        six->sin6_scope_id = scope;
        plan->target_length = sizeof *six;
    } else {
        PyErr_Format(PyExc_ValueError, "%s is not an IP address", ip);
        return 0;
    }
    return 1;
}

static int plan_parse(PyObject *args, PyObject *kwargs, struct plan *plan)
{
    static char *names[] = {"workload", "http", "ip", "port", "scope_id", "connections", "threads", "message_bytes",
                            "reply_bytes", "rate_per_s", "warmup_s", "duration_s", "timeout_s", NULL};
    const char *workload, *ip;
    int http, port;
    unsigned scope, message_bytes, reply_bytes;
    double warmup_s, duration_s, timeout_s;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$spsiIiiIIdddd", names, &workload, &http, &ip, &port, &scope,
                                     &plan->connections, &plan->threads, &message_bytes, &reply_bytes,
                                     &plan->rate_per_s, &warmup_s, &duration_s, &timeout_s))
        return 0;
    plan->http = http != 0;
    plan->message_bytes = message_bytes;
    plan->reply_bytes = reply_bytes;
    plan->warmup_ns = (uint64_t)(warmup_s * 1e9);
    plan->duration_ns = (uint64_t)(duration_s * 1e9);
    plan->timeout_ns = (uint64_t)(timeout_s * 1e9);
    return set_workload(plan, workload) && set_target(plan, ip, port, scope);
}

/* Put a new reference into `dict`, and let go of it; false when it could not be made. */
static int put(PyObject *dict, const char *name, PyObject *value)
{
    int done = value && PyDict_SetItemString(dict, name, value) == 0;
    Py_XDECREF(value);
    return done;
}

static PyObject *errors_of(const struct tally *t)
{
    PyObject *dict = PyDict_New();
    for (int i = 0; dict && i < FAILURES; i++)
        if (t->errors[i] && !put(dict, failure_names[i], PyLong_FromUnsignedLongLong(t->errors[i])))
            Py_CLEAR(dict);
    return dict;
}

static PyObject *endpoints_of(const struct tally *t)
{
    PyObject *dict = PyDict_New();
    for (int i = 0; dict && i < t->endpoint_count; i++) {
        char name[NAME + 1] = {0};
        memcpy(name, t->endpoints[i].name, NAME);
        if (!put(dict, name, PyLong_FromUnsignedLongLong(t->endpoints[i].count)))
            Py_CLEAR(dict);
    }
    return dict;
}

static PyObject *counts_of(const struct histogram *h)
{
    return Py_BuildValue("(y#K)", (const char *)h->counts, (Py_ssize_t)sizeof h->counts,
                         (unsigned long long)h->longest_ns);
}

static double elapsed_s(const struct run *run, const struct tally *t)
{
    uint64_t until = is_stream(run->plan->workload) ? t->last_byte_ns : run->end_ns;
    return until > run->measure_ns ? (double)(until - run->measure_ns) / 1e9 : 0;
}

static int put_figures(PyObject *dict, const struct run *run, const struct tally *t)
{
    double gap_ms = (double)atomic_load(&run->longest_gap_ns) / 1e6;
    return put(dict, "operations", PyLong_FromUnsignedLongLong(t->operations)) &&
           put(dict, "elapsed_s", PyFloat_FromDouble(elapsed_s(run, t))) &&
           put(dict, "bytes_up", PyLong_FromUnsignedLongLong(t->bytes_up)) &&
           put(dict, "bytes_down", PyLong_FromUnsignedLongLong(t->bytes_down)) &&
           put(dict, "sent", PyLong_FromUnsignedLongLong(t->sent)) &&
           put(dict, "behind", PyLong_FromUnsignedLongLong(t->behind)) &&
           put(dict, "stuck", PyLong_FromUnsignedLongLong(t->stuck)) &&
           put(dict, "held", PyLong_FromUnsignedLongLong(t->held)) &&
           put(dict, "user_s", PyFloat_FromDouble(t->user_s)) &&
           put(dict, "system_s", PyFloat_FromDouble(t->system_s)) &&
           put(dict, "cpu_share", PyFloat_FromDouble(t->busiest_share)) &&
           put(dict, "longest_gap_ms", PyFloat_FromDouble(gap_ms));
}

static PyObject *outcome_of(const struct run *run, const struct tally *t)
{
    PyObject *dict = PyDict_New();
    if (dict && !(put_figures(dict, run, t) && put(dict, "errors_by_kind", errors_of(t)) &&
                  put(dict, "by_endpoint", endpoints_of(t)) && put(dict, "corrected", counts_of(&t->corrected)) &&
                  put(dict, "uncorrected", counts_of(&t->uncorrected))))
        Py_CLEAR(dict);
    return dict;
}

static PyObject *run_method(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module;
    struct plan plan = {.rate_per_s = 0};
    struct run run = {.plan = &plan};
    if (!plan_parse(args, kwargs, &plan))
        return NULL;
    struct tally *total = PyMem_Calloc(1, sizeof *total);
    if (!total)
        return PyErr_NoMemory();
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = run_plan(&plan, &run, total);
    Py_END_ALLOW_THREADS
    errno = error;
    PyObject *outcome = error ? PyErr_SetFromErrno(PyExc_OSError) : outcome_of(&run, total);
    free(total->endpoints);
    PyMem_Free(total);
    return outcome;
}

static PyObject *serve_method(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module;
    static char *names[] = {"listener", "datagrams", "name", "constant_s", "slow_share", "slow_s", "stall_period_s",
                            "stall_s", "error_share", NULL};
    int listener, datagrams, error;
    const char *name;
    double constant_s, slow_s, stall_period_s, stall_s;
    struct faults faults = {.constant_ns = 0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$iisdddddd", names, &listener, &datagrams, &name, &constant_s,
                                     &faults.slow_share, &slow_s, &stall_period_s, &stall_s, &faults.error_share))
        return NULL;
    faults.constant_ns = (uint64_t)(constant_s * 1e9);
    faults.slow_ns = (uint64_t)(slow_s * 1e9);
    faults.stall_period_ns = (uint64_t)(stall_period_s * 1e9);
    faults.stall_ns = (uint64_t)(stall_s * 1e9);
    Py_BEGIN_ALLOW_THREADS
    error = serve(listener, datagrams, name, &faults);
    Py_END_ALLOW_THREADS
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyMethodDef methods[] = {
    {"run", (PyCFunction)(void (*)(void))run_method, METH_VARARGS | METH_KEYWORDS, "Carry out a plan."},
    {"serve", (PyCFunction)(void (*)(void))serve_method, METH_VARARGS | METH_KEYWORDS, "Serve for ever."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "uproxy.bench.load._native", .m_size = -1, .m_methods = methods,
    .m_doc = "The load generator and its server, compiled."};

PyMODINIT_FUNC PyInit__native(void);

PyMODINIT_FUNC PyInit__native(void)
{
    wire_prepare();
    return PyModule_Create(&definition);
}
