package toril

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// DefaultLease is how long a job that is settled later is held, where nothing else is said.
const DefaultLease = 30 * time.Second

// Later is what a [Func] returns in a web handler ([Queue.Handler]) to keep its job: whoever has the task settles it
// within the lease (a second to a day; 0 means [DefaultLease]), with [Queue.Complete] or [Queue.Fail], or extends it. That
// may come before the answer does. A job that is not settled in time is pushed again. Over a socket it makes no sense, and
// fails the attempt: a function may take as long as it likes there.
func Later(lease time.Duration) error { return &later{cmp.Or(lease, DefaultLease)} }

type later struct{ lease time.Duration }

func (e *later) Error() string {
	return fmt.Sprintf("to be settled within %v, which only jobs in a web handler can be", e.lease)
}

// AnswerLater is the answer of [Later] for a handler of your own, with [Queue.ReadPushed].
func AnswerLater(answer http.ResponseWriter, lease time.Duration) {
	answer.Header().Set("Toril-Settle", "later")
	lasts := milliseconds(cmp.Or(lease, DefaultLease))
	answer.Header().Set("Toril-Lease-Ms", strconv.FormatInt(lasts, 10))
	answer.WriteHeader(http.StatusAccepted)
}

// AnswerRetryIn is the answer of [RetryIn] for a handler of your own: the attempt has failed, with an error that may be
// nil, and the next one begins after this time instead of the job's backoff, if attempts are left.
func AnswerRetryIn(answer http.ResponseWriter, after time.Duration, err error) {
	answerFailure(answer, RetryIn(after, err))
}

// Complete completes a job that was answered with [Later]. Of its task only the ID and the Token are needed, so they can
// be kept, and another program can do it. An [Error] with the code lease_lost says that the job is no longer this token's,
// and wrong_lock_token that somebody else has it; so it is with Fail, Extend and Release.
func (q *Queue[T, R]) Complete(ctx context.Context, task *Task[T], result R) error {
	return q.settle(ctx, task, "complete", map[string]any{"returnvalue": result})
}

// Fail fails its attempt, for a reason that is not nil; with [Unrecoverable] the job, with [RetryIn] for so long.
func (q *Queue[T, R]) Fail(ctx context.Context, task *Task[T], err error) error {
	told := failed(err).Error
	said := map[string]any{"reason": told.Message}
	if told.Unrecoverable {
		said["unrecoverable"] = true
	}
	if told.RetryIn != nil {
		said["retry_in_ms"] = *told.RetryIn
	}
	return q.settle(ctx, task, "fail", said)
}

// Extend says that it takes longer: the lease ends this time from now (a second to a day).
func (q *Queue[T, R]) Extend(ctx context.Context, task *Task[T], lease time.Duration) error {
	return q.settle(ctx, task, "extend", map[string]any{"lock_ms": milliseconds(lease)})
}

// Release gives it back to the head of the queue, and spends no attempt.
func (q *Queue[T, R]) Release(ctx context.Context, task *Task[T]) error {
	return q.settle(ctx, task, "release", map[string]any{})
}

// settle is safe to repeat, as the second one finds the lock gone: what was done can be answered with lease_lost.
func (q *Queue[T, R]) settle(ctx context.Context, task *Task[T], action string, said map[string]any) error {
	body, err := encode(said)
	if err != nil {
		return err
	}
	holder := *q.client
	holder.token = task.Token
	_, err = holder.send(ctx, call{method: http.MethodPost, path: q.path("jobs", task.ID, action), body: body})
	return err
}

// answerError is how a web handler says what a function's error means.
func (q *Queue[T, R]) answerError(answer http.ResponseWriter, request *http.Request, task *Task[T], err error) {
	var kept *later
	var hopeless *unrecoverable
	switch {
	case errors.As(err, &kept):
		AnswerLater(answer, kept.lease)
	// No answer can say that a job is beyond recovery. Its lock token can, and then the answer matters no more.
	case errors.As(err, &hopeless) && q.Fail(request.Context(), task, err) == nil:
		AnswerLater(answer, 0)
	default:
		answerFailure(answer, err)
	}
}

func answerFailure(answer http.ResponseWriter, err error) {
	text := err.Error()
	var crash *panicked
	if errors.As(err, &crash) {
		text = crash.trace()
	}
	var again *retryIn
	if errors.As(err, &again) {
		answer.Header().Set("Toril-Retry-In", strconv.FormatInt(milliseconds(again.after), 10))
	}
	http.Error(answer, text, http.StatusInternalServerError)
}

func milliseconds(length time.Duration) int64 { return max(0, length.Milliseconds()) }
