package toril

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// bulkTimeout is how long an action on many jobs may take.
const bulkTimeout = 10 * time.Minute

// Search goes through the jobs that match, as `data.customer.id = 42 and failedReason ~ timeout`, the newest first; in all
// states unless some are given. The [Error] of a search that cannot be read has the code invalid_where.
func (q *Queue[T, R]) Search(ctx context.Context, where string, states ...State) iter.Seq2[*Job[T], error] {
	type found struct {
		Jobs []*Job[T] `json:"jobs"`
		Next *string   `json:"next_cursor"`
	}
	return func(yield func(*Job[T], error) bool) {
		query := url.Values{"where": {where}}
		if len(states) > 0 {
			query.Set("states", joined(states))
		}
		for {
			page, err := read[found](q.get(ctx, q.path("search"), query))
			if err != nil {
				yield(nil, err)
				return
			}
			for _, job := range page.Jobs {
				if !yield(job, nil) {
					return
				}
			}
			if page.Next == nil {
				return
			}
			query.Set("cursor", *page.Next)
		}
	}
}

// Bulk is which jobs an action is for: those with these IDs, at most 10,000, or all in States that match Where; one of
// these two may be left out.
type Bulk struct {
	// Action is retry, promote, remove or delay.
	Action string
	IDs    []string
	States []State
	Where  string
	// Delay is how long from now, for the action delay.
	Delay time.Duration
	// DryRun only counts them.
	DryRun bool
}

// BulkResult is how many jobs matched, were changed (would be, in a dry run) and refused.
type BulkResult struct {
	Matched int `json:"matched"`
	Done    int `json:"done"`
	Refused int `json:"refused"`
	// Failed are the first 100 that were refused, with the code of the reason.
	Failed []struct{ ID, Code string } `json:"failed"`
}

// Bulk does one thing to many jobs. It is sent once: a second answer would count other jobs than the first.
func (q *Queue[T, R]) Bulk(ctx context.Context, bulk Bulk) (BulkResult, error) {
	said := map[string]any{"action": bulk.Action, "dry_run": bulk.DryRun}
	if bulk.IDs != nil {
		said["ids"] = bulk.IDs
	}
	if bulk.States != nil {
		said["states"] = bulk.States
	}
	if bulk.Where != "" {
		said["where"] = bulk.Where
	}
	if bulk.Action == "delay" {
		said["delay_ms"] = milliseconds(bulk.Delay)
	}
	body, err := encode(said)
	if err != nil {
		return BulkResult{}, err
	}
	return read[BulkResult](q.client.send(ctx, call{
		method: http.MethodPost, path: q.path("bulk"), body: body, once: true, timeout: bulkTimeout,
	}))
}

// Retry retries a failed or completed job; an [Error] with the code wrong_state says that it is neither.
func (q *Queue[T, R]) Retry(ctx context.Context, id string) error {
	return q.act(ctx, http.MethodPost, true, "jobs", id, "retry")
}

// Promote moves a delayed job to waiting.
func (q *Queue[T, R]) Promote(ctx context.Context, id string) error {
	return q.act(ctx, http.MethodPost, true, "jobs", id, "promote")
}

// Remove removes a job and its children.
func (q *Queue[T, R]) Remove(ctx context.Context, id string) error {
	return q.act(ctx, http.MethodDelete, true, "jobs", id)
}

// Pause pauses the queue: no worker takes jobs from it.
func (q *Queue[T, R]) Pause(ctx context.Context) error {
	return q.act(ctx, http.MethodPost, false, "pause")
}

// Resume resumes the paused queue.
func (q *Queue[T, R]) Resume(ctx context.Context) error {
	return q.act(ctx, http.MethodPost, false, "resume")
}

// act is sent once, where a second one would find another state.
func (q *Queue[T, R]) act(ctx context.Context, method string, once bool, parts ...string) error {
	action := call{method: method, path: q.path(parts...), once: once}
	if method == http.MethodPost {
		action.body = []byte("{}")
	}
	_, err := q.client.send(ctx, action)
	return err
}
