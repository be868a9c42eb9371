package toril_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"toril"
)

func TestErrorsCarryTheServersCode(t *testing.T) {
	client, ctx := live(t), within(t)
	for _, asked := range []struct {
		what   string
		ask    func(*toril.Client) error
		code   string
		status int
	}{
		{"get", func(c *toril.Client) error {
			_, err := toril.NewQueue[any, any](c, "orders").Get(ctx, "404")
			return err
		}, "job_not_found", 404},
		{"wait", func(c *toril.Client) error {
			_, err := toril.NewQueue[any, any](c, "orders").Wait(ctx, "404")
			return err
		}, "job_not_found", 404},
		{"queue name", func(c *toril.Client) error {
			_, err := toril.NewQueue[any, any](c, "ab").Get(ctx, "1")
			return err
		}, "invalid_request", 400},
		{"job name", func(c *toril.Client) error {
			_, err := toril.NewQueue[any, any](c, "orders").Add(ctx, "", 1, nil)
			return err
		}, "invalid_request", 400},
		{"unregister", func(c *toril.Client) error {
			return toril.NewQueue[any, any](c, "nobody").Unregister(ctx)
		}, "worker_not_found", 404},
		{"events", func(c *toril.Client) error {
			for _, err := range toril.NewQueue[any, any](c, "ab").Events(ctx, "") {
				return err
			}
			return nil
		}, "invalid_request", 400},
	} {
		t.Run(asked.what, func(t *testing.T) {
			wantCode(t, asked.ask(client), asked.code, asked.status)
			wantCode(t, asked.ask(toril.NewClient(os.Getenv("TORIL"), "wrong")), "unauthorized", 401)
		})
	}
}

func TestJobsAreAddedReadAndCounted(t *testing.T) {
	queue, ctx := newQueue[map[string]string, any](t), within(t)
	late := must(queue.Add(ctx, "late", map[string]string{"html": "<b>&"}, &toril.JobOptions{
		ID: "mine", Delay: time.Hour, Attempts: 3, Backoff: &toril.Backoff{Type: "exponential", Delay: time.Second},
		RemoveOnFail: &toril.Keep{Age: time.Hour},
	}))(t)
	equal(t, late.ID, "mine")
	for _, name := range []string{"a", "b", "c"} {
		must(queue.Add(ctx, name, nil, nil))(t)
	}
	found := must(queue.Get(ctx, "mine"))(t)
	equal(t, found.Data["html"], "<b>&")
	equal(t, found.Name, "late")
	equal(t, found.Delay, time.Hour.Milliseconds())
	equal(t, found.FinishedOn, 0)
	var options map[string]any
	if err := json.Unmarshal(found.Options, &options); err != nil {
		t.Fatal(err)
	}
	if want := (map[string]any{
		"jobId": "mine", "delay": 3.6e6, "attempts": 3.0, "removeOnFail": map[string]any{"age": 3600.0},
		"backoff": map[string]any{"type": "exponential", "delay": 1000.0},
	}); !reflect.DeepEqual(options, want) {
		t.Fatalf("got %v, not %v", options, want)
	}
	names := ""
	for _, job := range must(queue.List(ctx, 0, 2, toril.Waiting))(t) {
		names += job.Name
	}
	equal(t, names, "cb")
	equal(t, len(must(queue.List(ctx, 2, 10))(t)), 1)
	counts := must(queue.Counts(ctx))(t)
	equal(t, counts[toril.Waiting], 3)
	equal(t, counts[toril.Delayed], 1)
}

func TestADeduplicatedJobKeepsItsOwnRules(t *testing.T) {
	queue, ctx := newQueue[int, any](t), within(t)
	same := &toril.JobOptions{Deduplication: &toril.Deduplication{ID: "the same", TTL: time.Minute}}
	first, second := must(queue.Add(ctx, "n", 1, same))(t), must(queue.Add(ctx, "n", 2, same))(t)
	equal(t, second.ID, first.ID)
	equal(t, must(queue.Get(ctx, first.ID))(t).DeduplicationID, "the same")
	equal(t, must(queue.Counts(ctx, toril.Waiting))(t)[toril.Waiting], 1)
}

func TestWaitingIsLimitedByTheContext(t *testing.T) {
	queue := newQueue[int, any](t)
	job := must(queue.Add(within(t), "n", 1, nil))(t)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := queue.Wait(ctx, job.ID); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

func TestEndpointsAreRegisteredListedAndRemoved(t *testing.T) {
	client, ctx := live(t), within(t)
	queue := toril.NewQueue[any, any](client, queueName())
	if err := queue.Register(ctx, toril.Endpoint{
		URL: "http://127.0.0.1:4/x", Method: "PUT", Headers: map[string]string{"x-secret": "s"}, Timeout: time.Second,
		Concurrency: 2, Limiter: &toril.Limiter{Max: 5, Duration: time.Second}, MaxStalledCount: 2,
		RemoveOnComplete: &toril.Keep{Count: 10}, RemoveOnFail: &toril.Keep{Count: 5, Age: time.Hour},
	}); err != nil {
		t.Fatal(err)
	}
	registered := false
	for name, url := range must(client.Workers(ctx))(t) {
		registered = registered || strings.HasPrefix(name, "go-") && url == "http://127.0.0.1:4/x"
	}
	equal(t, registered, true)
	if err := queue.Unregister(ctx); err != nil {
		t.Fatal(err)
	}
	wantCode(t, queue.Unregister(ctx), "worker_not_found", 404)
}

// The server gets the add, but its answer is lost: nobody knows whether the job is there.
func TestRepeatingAnAddDoesNotDuplicate(t *testing.T) {
	direct, ctx := live(t), within(t)
	target := must(url.Parse(os.Getenv("TORIL")))(t)
	onward := httputil.NewSingleHostReverseProxy(target)
	var posts atomic.Int32
	lossy := httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		if posts.Add(1) > 1 {
			onward.ServeHTTP(answer, request)
			return
		}
		onward.ServeHTTP(httptest.NewRecorder(), request)
		panic(http.ErrAbortHandler) // drops the connection
	}))
	defer lossy.Close()
	name := queueName()
	job := must(toril.NewQueue[int, any](toril.NewClient(lossy.URL, os.Getenv("TOKEN")), name).Add(ctx, "n", 7, nil))(t)
	queue := toril.NewQueue[int, any](direct, name)
	equal(t, posts.Load(), 2)
	equal(t, must(queue.Get(ctx, job.ID))(t).Data, 7)
	equal(t, must(queue.Counts(ctx))(t)[toril.Waiting], 1)
}

func TestAServerThatIsAwayIsAskedAgainAndThenNamed(t *testing.T) {
	t.Parallel()
	closed := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	client := toril.NewClient("http://"+closed.Addr().String(), "x")
	closed.Close()
	began := time.Now()
	_, err := toril.NewQueue[int, any](client, "orders").Add(within(t), "n", 1, nil)
	wantCode(t, err, "unreachable", 0)
	if took := time.Since(began); took < 700*time.Millisecond {
		t.Fatalf("gave up after %v", took)
	}
	var refused *net.OpError
	equal(t, errors.As(err, &refused), true)
}

func TestWhatIsSentAgainAndWhatIsNot(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	once := &toril.JobOptions{Deduplication: &toril.Deduplication{ID: "d"}}
	for _, asked := range []struct {
		what  string
		calls int32
		ask   func(*toril.Queue[int, any]) error
	}{
		{"an add", 5, func(q *toril.Queue[int, any]) error { _, err := q.Add(ctx, "n", 1, nil); return err }},
		{"a deduplicated add", 1, func(q *toril.Queue[int, any]) error { _, err := q.Add(ctx, "n", 1, once); return err }},
		{"a list", 5, func(q *toril.Queue[int, any]) error { _, err := q.List(ctx, 0, 10); return err }},
		{"a registration", 5, func(q *toril.Queue[int, any]) error { return q.Register(ctx, toril.Endpoint{}) }},
		{"an end of one", 1, func(q *toril.Queue[int, any]) error { return q.Unregister(ctx) }},
	} {
		t.Run(asked.what, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int32
			queue := toril.NewQueue[int, any](fake(t, func(answer http.ResponseWriter, _ *http.Request) {
				calls.Add(1)
				answer.Header().Set("toril-code", "store_unavailable")
				http.Error(answer, "Redis is not available, try again", http.StatusServiceUnavailable)
			}), "orders")
			wantCode(t, asked.ask(queue), "store_unavailable", 503)
			equal(t, calls.Load(), asked.calls)
		})
	}
}

func TestARepeatedAddHasTheSameID(t *testing.T) {
	t.Parallel()
	var bodies []string
	queue := toril.NewQueue[int, any](fake(t, func(answer http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		bodies = append(bodies, string(body))
		equal(t, request.Header.Get("Authorization"), "Bearer secret")
		if len(bodies) < 3 {
			answer.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		io.WriteString(answer, `[{"id":"x","name":"n","data":1}]`)
	}), "a/b")
	must(queue.Add(within(t), "n", 1, nil))(t)
	equal(t, len(bodies), 3)
	equal(t, bodies[0], bodies[2])
	equal(t, strings.Contains(bodies[0], `"jobId":"`), true)
}

func TestACallEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	queue := toril.NewQueue[int, any](fake(t, func(answer http.ResponseWriter, _ *http.Request) {
		cancel()
		answer.WriteHeader(http.StatusServiceUnavailable)
	}), "orders")
	if _, err := queue.Get(ctx, "1"); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestAnAnswerFromSomebodyElseIsAnError(t *testing.T) {
	status := http.StatusOK
	queue := toril.NewQueue[int, any](fake(t, func(answer http.ResponseWriter, _ *http.Request) {
		answer.WriteHeader(status)
		io.WriteString(answer, "<html>")
	}), "orders")
	_, err := queue.Get(within(t), "1")
	wantCode(t, err, "unexpected_answer", 200)
	status = http.StatusBadGateway
	_, err = queue.Get(within(t), "1")
	wantCode(t, err, "http_502", 502)
}
