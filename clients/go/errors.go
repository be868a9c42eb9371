package toril

import (
	"errors"
	"fmt"
	"time"
)

// Error says that the server refused, or cannot be reached.
type Error struct {
	// Code is the server's: job_not_found, invalid_request, unauthorized … It is unreachable when nobody answered,
	// and http_502 or the like, or unexpected_answer, when what answered is no toril.
	Code string
	// Message is for people.
	Message string
	// Status is the answer's HTTP status, 0 when there was none.
	Status int

	cause error
}

func (e *Error) Error() string { return fmt.Sprintf("toril: %s (%s)", e.Message, e.Code) }

// Unwrap returns what went wrong beneath, if anything did: an error of the network, say.
func (e *Error) Unwrap() error { return e.cause }

// JobFailedError says that the job whose result was waited for has failed. It is an [Error] with the code job_failed too.
type JobFailedError struct {
	// Queue and ID say which job.
	Queue, ID string
	// Reason is the job's failedReason.
	Reason string

	cause *Error
}

func (e *JobFailedError) Error() string {
	return fmt.Sprintf("toril: job %s of %s has failed: %s", e.ID, e.Queue, e.Reason)
}

// Unwrap returns the server's answer, an [*Error].
func (e *JobFailedError) Unwrap() error { return e.cause }

// ErrGrace is what [Worker.Run] returns when jobs were not done within [WorkerOptions.Grace]. They went back to the queue.
var ErrGrace = errors.New("toril: jobs were not done within the grace period, and went back to the queue")

// Unrecoverable wraps what a [Func] returns, or [Queue.Fail] is told: fail the job at once, though attempts are left.
func Unrecoverable(err error) error { return &unrecoverable{err} }

type unrecoverable struct{ cause error }

func (e *unrecoverable) Error() string { return reason(e.cause, "unrecoverable") }
func (e *unrecoverable) Unwrap() error { return e.cause }

// RetryIn wraps the same: try the job again after this time instead of the job's backoff, if it has attempts left. The
// error may be nil.
func RetryIn(after time.Duration, err error) error { return &retryIn{after, err} }

type retryIn struct {
	after time.Duration
	cause error
}

func (e *retryIn) Error() string { return reason(e.cause, "to be tried again") }
func (e *retryIn) Unwrap() error { return e.cause }

func reason(err error, otherwise string) string {
	if err == nil {
		return otherwise
	}
	return err.Error()
}

// panicked is the error of a worker's function that panicked.
type panicked struct {
	value any
	stack []byte
}

func (e *panicked) Error() string { return fmt.Sprintf("panic: %v", e.value) }

func (e *panicked) trace() string { return fmt.Sprintf("%s\n\n%s", e.Error(), e.stack) }
