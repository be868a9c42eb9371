package toril

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Endpoint is a web handler to which jobs are pushed: see [Queue.Handler].
type Endpoint struct {
	// URL is where the handler is, as toril reaches it.
	URL string
	// Method is POST, PUT or PATCH; empty means POST.
	Method string
	// Headers are sent with every job: a secret that the handler checks, say.
	Headers map[string]string
	// Policy says which of its answers are final; nil means that all but 2xx are retried while attempts are left.
	Policy *Policy
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

// Policy is how answers that are no 2xx are taken. Statuses are from 300 to 599.
type Policy struct {
	// RetryOn are the statuses that are retried; all others fail the job at once. nil means every status.
	RetryOn []Status
	// FailOn are the statuses that fail the job at once.
	FailOn []Status
	// RetryAfter honours the header of that name, as a floor under the job's backoff.
	RetryAfter bool
	// MaxRetryAfter is how much of it is honoured; 0 means toril's default, an hour.
	MaxRetryAfter time.Duration
}

// Status is an HTTP status, or one of the classes below.
type Status int

// Classes of statuses.
const (
	Status3xx Status = 3
	Status4xx Status = 4
	Status5xx Status = 5
)

// MarshalJSON writes a class as toril has it: "5xx".
func (s Status) MarshalJSON() ([]byte, error) {
	if Status3xx <= s && s <= Status5xx {
		return fmt.Appendf(nil, `"%dxx"`, int(s)), nil
	}
	return json.Marshal(int(s))
}

// Limiter lets Max jobs of a queue or a group start per Duration, over all workers of the queue.
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
	RetryOn       []Status     `json:"retry_on"` // null is not the same as none
	FailOn        []Status     `json:"fail_on"`
	RetryAfter    bool         `json:"retry_after"`
	MaxRetryAfter int64        `json:"max_retry_after_ms,omitempty"`
	Signing       *signingJSON `json:"signing,omitempty"`
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
	method := cmp.Or(endpoint.Method, http.MethodPost)
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
	if policy := endpoint.Policy; policy != nil {
		longest := atLeastOne(policy.MaxRetryAfter, time.Millisecond)
		document.Policy = &policyJSON{policy.RetryOn, policy.FailOn, policy.RetryAfter, longest, nil}
	}
	if len(endpoint.Secrets) > 0 {
		document.Policy = cmp.Or(document.Policy, &policyJSON{})
		document.Policy.Signing = &signingJSON{endpoint.Secrets}
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
