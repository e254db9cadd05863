/* `uproxy.dataplane.relay._engine`: the native relay as Python sees it (_engine.pyi has the signatures).
 *
 * Owns the engine's life, and what crosses between the languages: numbers and bytes, never objects that
 * a worker could touch. All functions are for one thread, the event loop's.
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine.h"

enum { ASK_EVERY_MAX_S = 60 };

#define ORIGINAL_DST 80 /* SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST */

typedef struct {
    PyObject_HEAD
    struct engine engine;
    bool running;
} Engine;

/* ---- life ---- */

static bool read_bounds(struct options *o, PyObject *bounds_s)
{
    Py_ssize_t count = PyTuple_GET_SIZE(bounds_s);
    if (count > BUCKETS_MAX) {
        PyErr_SetString(PyExc_ValueError, "too many histogram buckets");
        return false;
    }
    o->buckets = (unsigned)count;
    for (Py_ssize_t i = 0; i < count; i++) {
        double bound_s = PyFloat_AsDouble(PyTuple_GET_ITEM(bounds_s, i));
        if (bound_s == -1.0 && PyErr_Occurred())
            return false;
        o->bucket_ns[i] = (uint64_t)(bound_s * 1e9);
    }
    return true;
}

static void stop_workers(Engine *self, unsigned count)
{
    Py_BEGIN_ALLOW_THREADS
    for (unsigned i = 0; i < count; i++)
        worker_stop(&self->engine.workers[i]);
    Py_END_ALLOW_THREADS
}

static int start_workers(Engine *self)
{
    struct engine *e = &self->engine;
    for (unsigned i = 0; i < e->options.workers; i++) {
        int error = worker_start(&e->workers[i], e);
        if (error == 0)
            continue;
        stop_workers(self, i);
        errno = error;
        return -1;
    }
    return 0;
}

static void release(Engine *self)
{
    struct engine *e = &self->engine;
    for (size_t i = 0; i < e->reports_count; i++)
        if (e->reports[i].failed_dial)
            close_with_reset(e->reports[i].fd);
    free(e->reports);
    free(e->workers);
    free(e->scratch);
    free(e->hops);
    for (unsigned i = 0; i < CHUNKS_MAX; i++) {
        free(e->targets[i]);
        free(e->settings[i]);
    }
    counters_free(&e->front);
    counters_free(&e->seen);
    free(e->ports.free);
    free(e->ports.owned);
    free(e->backends.free);
    free(e->backends.owned);
    if (e->report_fd >= 0)
        close(e->report_fd);
    pthread_mutex_destroy(&e->lock);
    memset(e, 0, sizeof *e); /* so that it may begin again */
}

static int engine_init(Engine *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"workers", "connect_ms", "idle_ms", "half_closed_ms", "mark", "pipe_descriptors_max",
                            "report_ends", "connect_bounds_s", "local_ports", "client_ports", "tells_ends",
                            "tells_failures", NULL};
    struct engine *e = &self->engine;
    struct options *o = &e->options;
    PyObject *bounds_s;
    int report_ends, tells_ends, tells_failures;
    if (self->running) {
        PyErr_SetString(PyExc_RuntimeError, "the engine runs already");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$IIIIIipO!(II)(II)pp", names, &o->workers, &o->connect_ms, &o->idle_ms,
                                     &o->half_closed_ms, &o->mark, &o->pipe_descriptors_max,
                                     &report_ends, &PyTuple_Type, &bounds_s, &e->local_ports.first,
                                     &e->local_ports.last, &e->client_ports.first, &e->client_ports.last,
                                     &tells_ends, &tells_failures))
        return -1;
    if (o->workers < 1 || o->workers > WORKERS_MAX) {
        PyErr_Format(PyExc_ValueError, "workers must be 1 to %d", WORKERS_MAX);
        return -1;
    }
    o->report_ends = report_ends;
    o->tells_ends = tells_ends;
    o->tells_failures = tells_failures;
    if (!read_bounds(o, bounds_s))
        return -1;
    self->engine.ports.ports = true;
    e->ask_every_s = ASK_EVERY_MAX_S;
    e->local_ports.next = e->local_ports.first;
    e->client_ports.next = e->client_ports.first;
    pthread_mutex_init(&e->lock, NULL);
    e->report_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    e->workers = calloc(o->workers, sizeof *e->workers);
    e->scratch = malloc(SCRATCH_BYTES);
    if (e->workers == NULL || e->scratch == NULL)
        errno = ENOMEM;
    if (e->report_fd < 0 || e->workers == NULL || e->scratch == NULL || start_workers(self) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        release(self);
        return -1;
    }
    self->running = true;
    return 0;
}

static PyObject *engine_close(Engine *self, PyObject *Py_UNUSED(ignored))
{
    if (self->running) {
        self->running = false;
        stop_workers(self, self->engine.options.workers);
        release(self);
    }
    Py_RETURN_NONE;
}

static void engine_dealloc(Engine *self)
{
    Py_XDECREF(engine_close(self, NULL));
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static bool is_running(const Engine *self)
{
    if (!self->running)
        PyErr_SetString(PyExc_RuntimeError, "the engine is closed");
    return self->running;
}

/* ---- numbers from Python ---- */

/* -1 with an exception set for what is none; a negative number is a descriptor that is not open. */
static int parse_descriptor(PyObject *number)
{
    long fd = PyLong_AsLong(number);
    if (fd > INT_MAX || fd < INT_MIN) {
        PyErr_SetString(PyExc_OverflowError, "not a descriptor");
        return -1;
    }
    return (int)fd;
}

static bool is_slot(const struct slots *slots, unsigned long slot)
{
    bool owned = slot_is_owned(slots, slot);
    if (!owned)
        PyErr_SetString(PyExc_ValueError, "no such slot");
    return owned;
}

/* ---- Service ports and endpoints ---- */

static PyObject *slot_or_error(int64_t slot)
{
    return slot < 0 ? PyErr_NoMemory() : PyLong_FromLongLong(slot);
}

static PyObject *engine_add_port(Engine *self, PyObject *Py_UNUSED(ignored))
{
    return is_running(self) ? slot_or_error(slot_new(&self->engine, &self->engine.ports)) : NULL;
}

static bool parse_target(const char *ip, long port, struct target *t)
{
    struct sockaddr_in *four = (struct sockaddr_in *)&t->address;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&t->address;
    memset(t, 0, sizeof *t);
    if (port < 0 || port > UINT16_MAX) {
        PyErr_Format(PyExc_ValueError, "%ld is not a port", port);
        return false;
    }
    if (inet_pton(AF_INET, ip, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons((uint16_t)port);
        t->size = sizeof *four;
    } else if (inet_pton(AF_INET6, ip, &six->sin6_addr) == 1) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons((uint16_t)port);
        t->size = sizeof *six;
    } else {
        PyErr_Format(PyExc_ValueError, "%s is not an IP address", ip);
        return false;
    }
    return true;
}

static PyObject *engine_add_backend(Engine *self, PyObject *args)
{
    const char *ip;
    long port;
    struct target target;
    if (!PyArg_ParseTuple(args, "sl", &ip, &port) || !parse_target(ip, port, &target) || !is_running(self))
        return NULL;
    int64_t slot = slot_new(&self->engine, &self->engine.backends);
    if (slot >= 0)
        self->engine.targets[slot / CHUNK][slot % CHUNK] = target;
    return slot_or_error(slot);
}

/* Sweeps come as often as the shortest age asks for. */
static void note_ages(struct engine *e)
{
    uint64_t shortest_ms = 0;
    for (uint32_t slot = 0; slot < e->ports.count; slot++) {
        uint64_t age_ms = settings_of(e, slot)->age_ms;
        if (age_ms != 0 && (shortest_ms == 0 || age_ms < shortest_ms))
            shortest_ms = age_ms;
    }
    if (shortest_ms == e->shortest_age_ms)
        return;
    __atomic_store_n(&e->shortest_age_ms, shortest_ms, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < e->options.workers; i++)
        worker_sweep_soon(&e->workers[i]);
}

static PyObject *engine_set_port(Engine *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "set_port takes slot, report_ends, age_ms");
        return NULL;
    }
    unsigned long slot = PyLong_AsUnsignedLong(args[0]);
    int report_ends = PyObject_IsTrue(args[1]);
    uint64_t age_ms = PyLong_AsUnsignedLongLong(args[2]);
    if (PyErr_Occurred() || !is_running(self) || !is_slot(&self->engine.ports, slot))
        return NULL;
    struct port_settings *settings = settings_of(&self->engine, (uint32_t)slot);
    __atomic_store_n(&settings->report_ends, report_ends != 0, __ATOMIC_RELEASE);
    if (settings->age_ms != age_ms) {
        __atomic_store_n(&settings->age_ms, age_ms, __ATOMIC_RELEASE);
        note_ages(&self->engine);
    }
    Py_RETURN_NONE;
}

static PyObject *drop(Engine *self, struct slots *slots, PyObject *number)
{
    unsigned long slot = PyLong_AsUnsignedLong(number);
    if (PyErr_Occurred() || !is_running(self) || !is_slot(slots, slot))
        return NULL;
    int done = slot_drop(&self->engine, slots, (uint32_t)slot);
    return done < 0 ? PyErr_NoMemory() : PyBool_FromLong(done);
}

static PyObject *engine_drop_port(Engine *self, PyObject *slot)
{
    return drop(self, &self->engine.ports, slot);
}

static PyObject *engine_drop_backend(Engine *self, PyObject *slot)
{
    return drop(self, &self->engine.backends, slot);
}

/* ---- connections ---- */

static bool parse_header(PyObject *bytes, struct header *header)
{
    char *data;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(bytes, &data, &size) < 0)
        return false;
    if (size > HEADER_MAX) {
        PyErr_SetString(PyExc_ValueError, "the header is too long");
        return false;
    }
    *header = (struct header){.bytes = data, .size = (uint32_t)size};
    return true;
}

static PyObject *engine_begin(Engine *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 8) {
        PyErr_SetString(PyExc_TypeError,
                        "begin takes client, port, backend, address, begun_ns, header, as_client, bound_ms");
        return NULL;
    }
    int client = parse_descriptor(args[0]);
    unsigned long port = PyLong_AsUnsignedLong(args[1]);
    unsigned long backend = PyLong_AsUnsignedLong(args[2]);
    const char *address = PyUnicode_AsUTF8(args[3]);
    uint64_t begun_ns = PyLong_AsUnsignedLongLong(args[4]);
    struct header header;
    int as_client = PyObject_IsTrue(args[6]);
    unsigned long bound_ms = PyLong_AsUnsignedLong(args[7]);
    if (bound_ms > UINT32_MAX && !PyErr_Occurred())
        PyErr_SetString(PyExc_OverflowError, "bound_ms is too large");
    if (PyErr_Occurred() || !parse_header(args[5], &header) || !is_running(self) ||
        !is_slot(&self->engine.ports, port) || !is_slot(&self->engine.backends, backend))
        return NULL;
    return PyLong_FromLong(front_begin(&self->engine, client, (uint32_t)port, (uint32_t)backend, address,
                                       begun_ns, header, as_client != 0, (uint32_t)bound_ms));
}

static PyObject *engine_reset(Engine *self, PyObject *args)
{
    int reason;
    long long backend;
    if (!PyArg_ParseTuple(args, "iL", &reason, &backend) || !is_running(self))
        return NULL;
    if (reason < 0 || reason >= REASONS_COUNT) {
        PyErr_SetString(PyExc_ValueError, "no such reason");
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    for (unsigned i = 0; i < self->engine.options.workers; i++)
        worker_reset(&self->engine.workers[i], reason, backend);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *engine_ask_every(Engine *self, PyObject *seconds)
{
    unsigned long every_s = PyLong_AsUnsignedLong(seconds);
    if (PyErr_Occurred() || !is_running(self))
        return NULL;
    if (every_s < 1 || every_s > ASK_EVERY_MAX_S) {
        PyErr_SetString(PyExc_ValueError, "out of range");
        return NULL;
    }
    if (READ(self->engine.ask_every_s) != every_s) {
        __atomic_store_n(&self->engine.ask_every_s, (uint32_t)every_s, __ATOMIC_RELEASE);
        for (unsigned i = 0; i < self->engine.options.workers; i++)
            worker_sweep_soon(&self->engine.workers[i]); /* the next pass may come too late */
    }
    Py_RETURN_NONE;
}

static PyObject *engine_joined(Engine *self, PyObject *number)
{
    unsigned long slot = PyLong_AsUnsignedLong(number);
    struct backend_counts sum;
    if (PyErr_Occurred() || !is_running(self) || !is_slot(&self->engine.backends, slot))
        return NULL;
    sum_backend(&self->engine, (uint32_t)slot, &sum);
    return PyLong_FromUnsignedLongLong(sum.joined);
}

/* Asked for every connection of a Service that balances by load, for all of its endpoints. */
static PyObject *engine_open(Engine *self, PyObject *backends)
{
    if (!is_running(self))
        return NULL;
    if (!PyList_Check(backends)) {
        PyErr_SetString(PyExc_TypeError, "open takes a list of slots");
        return NULL;
    }
    Py_ssize_t count = PyList_GET_SIZE(backends);
    PyObject *loads = PyList_New(count);
    for (Py_ssize_t i = 0; loads != NULL && i < count; i++) {
        long slot = PyLong_AsLong(PyList_GET_ITEM(backends, i));
        uint64_t load = 0;
        bool fine = slot == -1 ? !PyErr_Occurred() : is_slot(&self->engine.backends, (unsigned long)slot);
        if (fine && slot >= 0)
            load = backend_open(&self->engine, (uint32_t)slot);
        PyObject *number = fine ? PyLong_FromUnsignedLongLong(load) : NULL;
        if (number == NULL)
            Py_CLEAR(loads);
        else
            PyList_SET_ITEM(loads, i, number);
    }
    return loads;
}

static PyObject *engine_live(Engine *self, PyObject *Py_UNUSED(ignored))
{
    long sum = 0;
    for (unsigned i = 0; self->running && i < self->engine.options.workers; i++)
        sum += READ(self->engine.workers[i].live);
    return PyLong_FromLong(sum);
}

static PyObject *engine_descriptors(Engine *self, PyObject *Py_UNUSED(ignored))
{
    long sum = 0;
    for (unsigned i = 0; self->running && i < self->engine.options.workers; i++)
        sum += READ(self->engine.workers[i].descriptors);
    return PyLong_FromLong(sum);
}

/* ---- counts and reports ---- */

static bool append_new(PyObject *list, PyObject *item)
{
    if (item == NULL)
        return false;
    int failed = PyList_Append(list, item);
    Py_DECREF(item);
    return failed == 0;
}

/* A tuple of the differences. */
static PyObject *differences(const uint64_t *now, const uint64_t *before, unsigned count)
{
    PyObject *tuple = PyTuple_New(count);
    for (unsigned i = 0; tuple != NULL && i < count; i++) {
        PyObject *number = PyLong_FromUnsignedLongLong(now[i] - before[i]);
        if (number == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, i, number);
    }
    return tuple;
}

static bool collect_port(Engine *self, uint32_t slot, PyObject *changes)
{
    struct port_counts now, *seen = port_counts(&self->engine.seen, slot);
    sum_port(&self->engine, slot, &now);
    if (memcmp(&now, seen, sizeof now) == 0)
        return true;
    PyObject *closes = differences(now.closes, seen->closes, REASONS_COUNT);
    PyObject *connects = differences(now.connects, seen->connects, self->engine.options.buckets + 1);
    PyObject *change = NULL;
    if (closes != NULL && connects != NULL)
        change = Py_BuildValue("IKKOOd", slot, now.bytes[CLIENT] - seen->bytes[CLIENT],
                               now.bytes[BACKEND] - seen->bytes[BACKEND], closes, connects,
                               (double)(now.connect_ns - seen->connect_ns) / 1e9);
    Py_XDECREF(closes);
    Py_XDECREF(connects);
    *seen = now;
    return append_new(changes, change);
}

static bool collect_backend(Engine *self, uint32_t slot, PyObject *changes)
{
    struct backend_counts now, *seen = backend_counts(&self->engine.seen, slot);
    sum_backend(&self->engine, slot, &now);
    if (memcmp(&now, seen, sizeof now) == 0)
        return true;
    PyObject *change = Py_BuildValue("IKK", slot, now.joined - seen->joined, now.joined - now.ended);
    *seen = now;
    return append_new(changes, change);
}

static PyObject *engine_collect(Engine *self, PyObject *Py_UNUSED(ignored))
{
    if (!is_running(self))
        return NULL;
    PyObject *ports = PyList_New(0), *backends = PyList_New(0);
    bool fine = ports != NULL && backends != NULL;
    for (uint32_t slot = 0; fine && slot < self->engine.ports.count; slot++)
        fine = collect_port(self, slot, ports);
    for (uint32_t slot = 0; fine && slot < self->engine.backends.count; slot++)
        fine = collect_backend(self, slot, backends);
    PyObject *both = fine ? PyTuple_Pack(2, ports, backends) : NULL;
    Py_XDECREF(ports);
    Py_XDECREF(backends);
    return both;
}

static PyStructSequence_Field report_fields[] = {
    {"failed_dial", NULL}, {"client_fd", NULL}, {"code", NULL},
    {"port", NULL}, {"backend", NULL}, {"client", NULL},
    {"bytes_to_backend", NULL}, {"bytes_to_client", NULL}, {"lasted_s", NULL}, {NULL, NULL},
};

static PyStructSequence_Desc report_description = {
    "uproxy.dataplane.relay._engine.Report", "A failed dial, or the end of a connection.", report_fields, 9,
};

static PyTypeObject *report_type;

static PyObject *new_report(const struct report *r)
{
    PyObject *fields[] = {
        PyBool_FromLong(r->failed_dial),
        PyLong_FromLong(r->fd),
        PyLong_FromLong(r->code),
        PyLong_FromUnsignedLong(r->port),
        PyLong_FromUnsignedLong(r->backend),
        PyUnicode_FromString(r->client),
        PyLong_FromUnsignedLongLong(r->bytes[CLIENT]),
        PyLong_FromUnsignedLongLong(r->bytes[BACKEND]),
        PyFloat_FromDouble((double)r->lasted_ns / 1e9),
    };
    PyObject *report = PyStructSequence_New(report_type);
    bool fine = report != NULL;
    for (Py_ssize_t i = 0; i < 9; i++) {
        fine = fine && fields[i] != NULL;
        if (report != NULL)
            PyStructSequence_SetItem(report, i, fields[i]);
        else
            Py_XDECREF(fields[i]);
    }
    if (!fine)
        Py_CLEAR(report);
    return report;
}

static PyObject *engine_reports(Engine *self, PyObject *Py_UNUSED(ignored))
{
    struct engine *e = &self->engine;
    uint64_t ignored;
    if (!is_running(self))
        return NULL;
    if (read(e->report_fd, &ignored, sizeof ignored) < 0 && errno != EAGAIN)
        return PyErr_SetFromErrno(PyExc_OSError);
    pthread_mutex_lock(&e->lock);
    struct report *reports = e->reports;
    size_t count = e->reports_count;
    e->reports = NULL;
    e->reports_count = e->reports_room = 0;
    pthread_mutex_unlock(&e->lock);
    PyObject *list = PyList_New(0);
    bool fine = list != NULL;
    for (size_t i = 0; i < count; i++) {
        fine = fine && append_new(list, new_report(&reports[i]));
        if (!fine && reports[i].failed_dial)
            close_with_reset(reports[i].fd);
    }
    free(reports);
    if (!fine)
        Py_CLEAR(list);
    return list;
}

static PyObject *engine_report_fd(Engine *self, void *Py_UNUSED(closure))
{
    return is_running(self) ? PyLong_FromLong(self->engine.report_fd) : NULL;
}

/* ---- functions on sockets ---- */

static PyObject *module_accept(PyObject *Py_UNUSED(module), PyObject *listener)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    char text[64];
    int fd = parse_descriptor(listener);
    if (PyErr_Occurred())
        return NULL;
    int listening = fd;
    do
        fd = accept4(listening, (struct sockaddr *)&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    if (fd < 0 && errno == EAGAIN)
        Py_RETURN_NONE;
    if (fd < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    address_text(&address, text);
    PyObject *client = Py_BuildValue("is", fd, text);
    if (client == NULL)
        close(fd);
    return client;
}

static PyObject *module_destination(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    char found[2 + 16];
    int fd, family;
    if (!PyArg_ParseTuple(args, "ii", &fd, &family))
        return NULL;
    if (getsockopt(fd, family == 4 ? IPPROTO_IP : IPPROTO_IPV6, ORIGINAL_DST, &address, &size) < 0)
        Py_RETURN_NONE;
    if (family == 4) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)&address;
        memcpy(found, &four->sin_port, 2);
        memcpy(found + 2, &four->sin_addr, 4);
        return PyBytes_FromStringAndSize(found, 2 + 4);
    }
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&address;
    memcpy(found, &six->sin6_port, 2);
    memcpy(found + 2, &six->sin6_addr, 16);
    return PyBytes_FromStringAndSize(found, sizeof found);
}

static PyObject *module_refuse(PyObject *Py_UNUSED(module), PyObject *client)
{
    int fd = parse_descriptor(client);
    if (PyErr_Occurred())
        return NULL;
    close_with_reset(fd);
    Py_RETURN_NONE;
}

/* ---- tables ---- */

static PyMethodDef engine_methods[] = {
    {"add_port", (PyCFunction)engine_add_port, METH_NOARGS, NULL},
    {"add_backend", (PyCFunction)engine_add_backend, METH_VARARGS, NULL},
    {"set_port", (PyCFunction)(void (*)(void))engine_set_port, METH_FASTCALL, NULL},
    {"drop_port", (PyCFunction)engine_drop_port, METH_O, NULL},
    {"drop_backend", (PyCFunction)engine_drop_backend, METH_O, NULL},
    {"begin", (PyCFunction)(void (*)(void))engine_begin, METH_FASTCALL, NULL},
    {"reset", (PyCFunction)engine_reset, METH_VARARGS, NULL},
    {"ask_every", (PyCFunction)engine_ask_every, METH_O, NULL},
    {"joined", (PyCFunction)engine_joined, METH_O, NULL},
    {"open", (PyCFunction)engine_open, METH_O, NULL},
    {"live", (PyCFunction)engine_live, METH_NOARGS, NULL},
    {"descriptors", (PyCFunction)engine_descriptors, METH_NOARGS, NULL},
    {"collect", (PyCFunction)engine_collect, METH_NOARGS, NULL},
    {"reports", (PyCFunction)engine_reports, METH_NOARGS, NULL},
    {"close", (PyCFunction)engine_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef engine_attributes[] = {
    {"report_fd", (getter)engine_report_fd, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot engine_slots[] = {
    {Py_tp_init, engine_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, engine_dealloc},
    {Py_tp_methods, engine_methods},
    {Py_tp_getset, engine_attributes},
    {0, NULL},
};

static PyType_Spec engine_spec = {
    .name = "uproxy.dataplane.relay._engine.Engine",
    .basicsize = sizeof(Engine),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = engine_slots,
};

static PyMethodDef module_functions[] = {
    {"accept", module_accept, METH_O, NULL},
    {"destination", module_destination, METH_VARARGS, NULL},
    {"refuse", module_refuse, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&engine_spec);
    PyObject *reasons = Py_BuildValue("(ssssssssss)", "client-eof", "backend-eof", "client-reset", "backend-reset",
                                      "idle-timeout", "half-closed-timeout", "shutdown", "endpoint-removed", "max-age",
                                      "no-resources");
    if (report_type == NULL)
        report_type = PyStructSequence_NewType(&report_description);
    int failed = PyModule_AddObjectRef(module, "Engine", type);
    if (!failed)
        failed = PyModule_AddObjectRef(module, "Report", (PyObject *)report_type);
    if (!failed)
        failed = PyModule_AddObjectRef(module, "REASONS", reasons);
    Py_XDECREF(type);
    Py_XDECREF(reasons);
    return failed;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, "_engine", "The native relay.", 0, module_functions, module_slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__engine(void)
{
    return PyModuleDef_Init(&module_definition);
}
