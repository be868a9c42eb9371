package toril_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"toril"
)

// pushing registers a handler as the queue's worker for the length of a test.
func pushing[T, R any](t *testing.T, queue *toril.Queue[T, R], handler http.Handler, policy *toril.Policy) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	endpoint := toril.Endpoint{URL: server.URL, Policy: policy, Timeout: patience}
	if err := queue.Register(within(t), endpoint); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { queue.Unregister(context.Background()) })
}

func patient(attempts int) *toril.JobOptions {
	return &toril.JobOptions{Attempts: attempts, Backoff: &toril.Backoff{Type: "fixed", Delay: time.Hour}}
}

func TestAPushedJobIsSettledLater(t *testing.T) {
	t.Parallel()
	queue, ctx := newQueue[number, square](t), within(t)
	tasks := make(chan *toril.Task[number], 9)
	pushing(t, queue, queue.Handler(func(_ context.Context, task *toril.Task[number]) (square, error) {
		tasks <- task
		return square{}, toril.Later(10 * time.Minute)
	}), nil)

	job := must(queue.Add(ctx, "square", number{7}, patient(1)))(t)
	first := receive(t, tasks)
	if err := queue.Release(ctx, first); err != nil {
		t.Fatal(err)
	}
	second := receive(t, tasks)
	wantCode(t, queue.Extend(ctx, first, time.Minute), "wrong_lock_token", 401)
	err := errors.Join(queue.Extend(ctx, second, 11*time.Minute), second.Progress(ctx, 50), second.Log(ctx, "half"))
	if err != nil {
		t.Fatal(err)
	}
	// Its id and its token are all that it takes.
	kept := &toril.Task[number]{Job: toril.Job[number]{ID: job.ID}, Token: second.Token}
	if err := queue.Complete(ctx, kept, square{49}); err != nil {
		t.Fatal(err)
	}
	equal(t, must(queue.Wait(ctx, job.ID))(t).Square, 49)
	equal(t, must(queue.Get(ctx, job.ID))(t).AttemptsMade, 1)
	wantCode(t, queue.Complete(ctx, second, square{50}), "lease_lost", 409)
	wantCode(t, queue.Fail(ctx, &toril.Task[number]{Job: second.Job, Token: "made up"}, errors.New("no")), "lease_lost", 409)
}

func TestWhatWentWrongSaysHowAPushedJobGoesOn(t *testing.T) {
	for _, toldLater := range []bool{false, true} {
		queue, ctx := newQueue[string, string](t), within(t)
		var mutex sync.Mutex
		var calls []string
		pushing(t, queue, queue.Handler(func(ctx context.Context, task *toril.Task[string]) (string, error) {
			mutex.Lock()
			first := !slices.Contains(calls, task.Data)
			calls = append(calls, task.Data)
			mutex.Unlock()
			wrong := toril.Unrecoverable(errors.New("no ink"))
			if task.Data == "retried" {
				if !first {
					return "done", nil
				}
				wrong = toril.RetryIn(10*time.Millisecond, nil)
			}
			if !toldLater {
				return "", wrong
			}
			return "", errors.Join(queue.Fail(ctx, task, wrong), toril.Later(0))
		}), nil)
		hopeless := must(queue.Add(ctx, "n", "hopeless", patient(2)))(t)
		retried := must(queue.Add(ctx, "n", "retried", patient(2)))(t)
		_, err := queue.Wait(ctx, hopeless.ID)
		var failure *toril.JobFailedError
		if !errors.As(err, &failure) || failure.Reason != "no ink" {
			t.Fatal(err)
		}
		equal(t, must(queue.Wait(ctx, retried.ID))(t), "done")
		mutex.Lock()
		slices.Sort(calls)
		equal(t, strings.Join(calls, " "), "hopeless retried retried")
		mutex.Unlock()
	}
}

func TestWhereTorilCannotBeToldThatAJobIsHopelessItsAttemptFails(t *testing.T) {
	t.Parallel()
	queue := toril.NewQueue[number, any](toril.NewClient("http://127.0.0.1:9", "x"), "orders")
	handler := queue.Handler(func(context.Context, *toril.Task[number]) (any, error) {
		return nil, toril.Unrecoverable(errors.New("no ink"))
	})
	body := `{"job":{"id":"7","queueQualifiedName":"bull:orders","data":{}},"token":"t"}`
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequest("POST", "/", strings.NewReader(body)))
	equal(t, answer.Code, http.StatusInternalServerError)
	equal(t, strings.TrimSpace(answer.Body.String()), "no ink")
}

func TestAPolicySaysWhichAnswersAreFinal(t *testing.T) {
	t.Parallel()
	retrying := &toril.Policy{RetryOn: []toril.Status{429, toril.Status5xx}, RetryAfter: true, MaxRetryAfter: time.Millisecond}
	for _, one := range []struct {
		policy *toril.Policy
		status int
		calls  int32
	}{
		{retrying, 503, 2},
		{retrying, 404, 1},
		{&toril.Policy{RetryOn: []toril.Status{}}, 503, 1},
		{&toril.Policy{FailOn: []toril.Status{toril.Status4xx}}, 410, 1},
		{&toril.Policy{}, 404, 2},
		{nil, 404, 2},
	} {
		queue, ctx := newQueue[int, any](t), within(t)
		var calls atomic.Int32
		pushing(t, queue, http.HandlerFunc(func(answer http.ResponseWriter, _ *http.Request) {
			calls.Add(1)
			answer.Header().Set("Retry-After", "600")
			answer.WriteHeader(one.status)
		}), one.policy)
		job := must(queue.Add(ctx, "n", 1, &toril.JobOptions{Attempts: 2}))(t)
		_, err := queue.Wait(ctx, job.ID)
		wantCode(t, err, "job_failed", 422)
		equal(t, calls.Load(), one.calls)
	}
	bad := toril.Endpoint{URL: "http://127.0.0.1:4/x", Policy: &toril.Policy{RetryOn: []toril.Status{200}}}
	wantCode(t, newQueue[int, any](t).Register(within(t), bad), "invalid_request", 400)
}

func TestAnswersByHandForLaterAndForAnotherTime(t *testing.T) {
	t.Parallel()
	later := httptest.NewRecorder()
	toril.AnswerLater(later, 2500*time.Millisecond)
	equal(t, later.Code, http.StatusAccepted)
	equal(t, later.Header().Get("toril-settle")+" "+later.Header().Get("toril-lease-ms"), "later 2500")
	again := httptest.NewRecorder()
	toril.AnswerRetryIn(again, time.Second, errors.New("busy"))
	equal(t, again.Code, http.StatusInternalServerError)
	equal(t, again.Header().Get("toril-retry-in")+" "+strings.TrimSpace(again.Body.String()), "1000 busy")
}

func TestAJobOverASocketCannotBeSettledLater(t *testing.T) {
	t.Parallel()
	queue, ctx := newQueue[int, int](t), within(t)
	working(t, queue.Worker(func(context.Context, *toril.Task[int]) (int, error) {
		return 0, toril.Later(time.Minute)
	}, toril.WorkerOptions{Logger: quiet}))
	job := must(queue.Add(ctx, "n", 1, nil))(t)
	_, err := queue.Wait(ctx, job.ID)
	var failure *toril.JobFailedError
	if !errors.As(err, &failure) || !strings.Contains(failure.Reason, "only jobs in a web handler") {
		t.Fatal(err)
	}
}
