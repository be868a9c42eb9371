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
		query.Set("statuses", joined(states))
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

func (q *Queue[T, R]) get(ctx context.Context, path string, query url.Values) (answer, error) {
	return q.client.send(ctx, call{method: http.MethodGet, path: path, query: query})
}

func (q *Queue[T, R]) path(parts ...string) string {
	return path("queues", q.name) + path(parts...)
}

func joined(states []State) string {
	names := make([]string, len(states))
	for i, state := range states {
		names[i] = string(state)
	}
	return strings.Join(names, ",")
}
