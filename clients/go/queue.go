package toril

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	longestWait = 30 * time.Second // of one request for a result: proxies cut what is silent for a minute
	jobFailed   = "job_failed"
)

// State is where a job stands.
type State string

// The states that jobs are listed and counted by.
const (
	Waiting   State = "waiting"
	Paused    State = "paused" // counted along with Waiting; cannot be asked for by itself
	Active    State = "active"
	Completed State = "completed"
	Failed    State = "failed"
	Delayed   State = "delayed"
)

// Queue is a queue whose jobs have data of type T and results of type R. Where they differ from job to job, any or
// [encoding/json.RawMessage] will do. It is safe for concurrent use.
type Queue[T, R any] struct {
	client *Client
	name   string
}

// NewQueue names a queue. Nothing is sent.
func NewQueue[T, R any](client *Client, name string) *Queue[T, R] {
	return &Queue[T, R]{client, name}
}

// Add adds one job; options may be nil. It is safe to repeat: the job gets an id here, so that adding it twice adds it
// once.
func (q *Queue[T, R]) Add(ctx context.Context, name string, data T, options *JobOptions) (*Job[T], error) {
	job := NewJob[T]{Name: name, Data: data}
	if options != nil {
		job.Options = *options
	}
	added, err := q.AddBulk(ctx, []NewJob[T]{job})
	if err != nil {
		return nil, err
	}
	return added[0], nil
}

// AddBulk adds jobs, all or none. What comes back is in the same order.
func (q *Queue[T, R]) AddBulk(ctx context.Context, jobs []NewJob[T]) ([]*Job[T], error) {
	wanted, once := make([]jobJSON[T], len(jobs)), false
	for i, job := range jobs {
		wanted[i] = job.wire()
		once = once || wanted[i].Options.ID == ""
	}
	body, err := encode(wanted)
	if err != nil {
		return nil, err
	}
	got, err := q.client.send(ctx, call{method: http.MethodPost, path: q.path("jobs"), body: body, once: once})
	added, err := read[[]*Job[T]](got, err)
	if err == nil && len(added) != len(jobs) {
		return nil, &Error{Code: "unexpected_answer", Message: "the answer has not as many jobs", Status: got.status}
	}
	return added, err
}

// Get returns one job, or an [Error] with the code job_not_found.
func (q *Queue[T, R]) Get(ctx context.Context, id string) (*Job[T], error) {
	return read[*Job[T]](q.get(ctx, q.path("jobs", id), nil))
}

// List returns jobs of these states, newest first: of each state length jobs (at most 100) from start on. Without a
// state, those that are waiting, active, completed and failed.
func (q *Queue[T, R]) List(ctx context.Context, start, length int, states ...State) ([]*Job[T], error) {
	found, err := q.page(ctx, start, length, states)
	return found.Jobs, err
}

// Counts returns how many jobs are in each state, all of them if none is given.
func (q *Queue[T, R]) Counts(ctx context.Context, states ...State) (map[State]int, error) {
	if len(states) == 0 {
		states = []State{Waiting, Active, Completed, Failed, Delayed}
	}
	found, err := q.page(ctx, 0, 0, states)
	return found.Counts, err
}

type page[T any] struct {
	Counts map[State]int `json:"counts"`
	Jobs   []*Job[T]     `json:"jobs"`
}

func (q *Queue[T, R]) page(ctx context.Context, start, length int, states []State) (page[T], error) {
	query := url.Values{"start": {strconv.Itoa(start)}, "length": {strconv.Itoa(length)}}
	if len(states) > 0 {
		names := make([]string, len(states))
		for i, state := range states {
			names[i] = string(state)
		}
		query.Set("statuses", strings.Join(names, ","))
	}
	return read[page[T]](q.get(ctx, q.path("jobs"), query))
}

// Logs returns a job's log lines, oldest first.
func (q *Queue[T, R]) Logs(ctx context.Context, id string) ([]string, error) {
	query := url.Values{"start": {"0"}, "end": {"-1"}}
	found, err := read[struct{ Logs []string }](q.get(ctx, q.path("jobs", id, "logs"), query))
	return found.Logs, err
}

// Wait waits for a job's result for as long as the context lives, which is the way to limit it. A job that has failed is
// a [JobFailedError].
func (q *Queue[T, R]) Wait(ctx context.Context, id string) (R, error) {
	query := url.Values{"wait": {strconv.FormatFloat(longestWait.Seconds(), 'f', 0, 64)}}
	for {
		got, err := q.get(ctx, q.path("jobs", id, "result"), query)
		if err == nil && got.status == http.StatusAccepted { // not yet
			err = sleep(ctx, firstPause)
			if err == nil {
				continue
			}
		}
		var fault *Error
		if errors.As(err, &fault) && fault.Code == jobFailed {
			err = &JobFailedError{q.name, id, fault.Message, fault}
		}
		return read[R](got, err)
	}
}

// Endpoint is a web handler to which jobs are pushed: see [Queue.Handler].
type Endpoint struct {
	// URL is where the handler is, as toril reaches it.
	URL string
	// Method is POST, PUT or PATCH; empty means POST.
	Method string
	// Headers are sent with every job: a secret that the handler checks, say.
	Headers map[string]string
	// Secrets (whsec_…) sign the requests: one, or two while it is changed. Give the handler the same.
	Secrets []string
	// Timeout is how long an answer may take; 0 means toril's default, 3 seconds.
	Timeout time.Duration
	// Concurrency is how many jobs are pushed at once; 0 means one.
	Concurrency int
	// Limiter limits how many jobs are started in a time; nil means no limit.
	Limiter *Limiter
	// MaxStalledCount is how often a job may stall before it fails; 0 means once.
	MaxStalledCount int
	// RemoveOnComplete and RemoveOnFail are how many ended jobs to keep, at least one; nil means all.
	RemoveOnComplete, RemoveOnFail *Keep
}

// Limiter lets Max jobs start per Duration, over all workers of the queue.
type Limiter struct {
	Max      int
	Duration time.Duration
}

type registration struct {
	Queue    string           `json:"queue"`
	Endpoint endpointJSON     `json:"endpoint"`
	Options  endpointOptsJSON `json:"opts"`
	Policy   *policyJSON      `json:"policy,omitempty"`
}

type policyJSON struct {
	Signing signingJSON `json:"signing"`
}

type signingJSON struct {
	Secrets []string `json:"secrets"`
}

type endpointJSON struct {
	URL     string            `json:"url"`
	Method  string            `json:"method"`
	Headers map[string]string `json:"headers,omitempty"`
	Timeout int64             `json:"timeout,omitempty"`
}

type endpointOptsJSON struct {
	Concurrency      int          `json:"concurrency,omitempty"`
	Limiter          *limiterJSON `json:"limiter,omitempty"`
	MaxStalledCount  int          `json:"maxStalledCount,omitempty"`
	RemoveOnComplete *keepJSON    `json:"removeOnComplete,omitempty"`
	RemoveOnFail     *keepJSON    `json:"removeOnFail,omitempty"`
}

type limiterJSON struct {
	Max      int   `json:"max"`
	Duration int64 `json:"duration"`
}

// Register makes an endpoint the worker of this queue, in place of the one that was.
func (q *Queue[T, R]) Register(ctx context.Context, endpoint Endpoint) error {
	method := endpoint.Method
	if method == "" {
		method = http.MethodPost
	}
	timeout := atLeastOne(endpoint.Timeout, time.Millisecond)
	document := registration{
		Queue:    q.name,
		Endpoint: endpointJSON{endpoint.URL, method, endpoint.Headers, timeout},
		Options: endpointOptsJSON{
			Concurrency:      endpoint.Concurrency,
			MaxStalledCount:  endpoint.MaxStalledCount,
			RemoveOnComplete: endpoint.RemoveOnComplete.wire(),
			RemoveOnFail:     endpoint.RemoveOnFail.wire(),
		},
	}
	if limiter := endpoint.Limiter; limiter != nil {
		document.Options.Limiter = &limiterJSON{limiter.Max, atLeastOne(limiter.Duration, time.Millisecond)}
	}
	if len(endpoint.Secrets) > 0 {
		document.Policy = &policyJSON{signingJSON{endpoint.Secrets}}
	}
	body, err := encode(document)
	if err != nil {
		return err
	}
	_, err = q.client.send(ctx, call{method: http.MethodPost, path: path("workers"), body: body})
	return err
}

// Unregister removes the registered endpoint; an [Error] with the code worker_not_found says that there is none.
func (q *Queue[T, R]) Unregister(ctx context.Context) error {
	// Not repeated: the second one would find none.
	_, err := q.client.send(ctx, call{method: http.MethodDelete, path: path("workers", q.name), once: true})
	return err
}

func (q *Queue[T, R]) get(ctx context.Context, path string, query url.Values) (answer, error) {
	return q.client.send(ctx, call{method: http.MethodGet, path: path, query: query})
}

func (q *Queue[T, R]) path(parts ...string) string {
	return path("queues", q.name) + path(parts...)
}
