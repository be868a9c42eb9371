package toril_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"toril"
)

func TestPushedJobsAreWorkedOnInAWebHandler(t *testing.T) {
	queue, ctx := newQueue[number, square](t), within(t)
	endpoint := httptest.NewServer(queue.Handler(func(ctx context.Context, task *toril.Task[number]) (square, error) {
		switch task.Data.N {
		case 13:
			return square{}, errors.New("unlucky")
		case 14:
			panic("at the disco")
		}
		err := errors.Join(task.Progress(ctx, 50), task.Log(ctx, "half"))
		return square{task.Data.N * task.Data.N}, err
	}))
	defer endpoint.Close()
	if err := queue.Register(ctx, toril.Endpoint{URL: endpoint.URL, Concurrency: 2}); err != nil {
		t.Fatal(err)
	}
	defer queue.Unregister(ctx)
	fine := must(queue.Add(ctx, "square", number{7}, nil))(t)
	equal(t, must(queue.Wait(ctx, fine.ID))(t).Square, 49)
	equal(t, string(must(queue.Get(ctx, fine.ID))(t).Progress), "50")
	equal(t, must(queue.Logs(ctx, fine.ID))(t)[0], "half")
	for n, trace := range map[int]string{13: "body: unlucky", 14: "body: panic: at the disco"} {
		job := must(queue.Add(ctx, "square", number{n}, nil))(t)
		_, err := queue.Wait(ctx, job.ID)
		var failure *toril.JobFailedError
		if !errors.As(err, &failure) || failure.Reason != "Internal Server Error" {
			t.Fatal(err)
		}
		if told := must(queue.Get(ctx, job.ID))(t).Stacktrace[0]; !strings.Contains(told, trace) {
			t.Fatal(told)
		}
	}
}

func TestReportsOfAJobThatHasEndedAreRefused(t *testing.T) {
	queue, ctx := newQueue[int, any](t), within(t)
	job := must(queue.Add(ctx, "n", 1, nil))(t)
	body := `{"job":{"id":"` + job.ID + `","data":1,"queueQualifiedName":"` + job.QueueQualifiedName + `"},"token":"old"}`
	task := must(queue.ReadPushed(httptest.NewRequest("POST", "/", strings.NewReader(body))))(t)
	wantCode(t, task.Progress(ctx, 1), "unauthorized", 401)
	wantCode(t, task.Log(ctx, "line"), "unauthorized", 401)
}

func TestBodiesThatAreNoPushedJobs(t *testing.T) {
	queue := toril.NewQueue[number, any](toril.NewClient("http://127.0.0.1:9", "x"), "orders")
	handler := queue.Handler(func(context.Context, *toril.Task[number]) (any, error) { return "done", nil })
	for body, status := range map[string]int{
		"":                         400,
		"[]":                       400,
		"{}":                       400,
		"null":                     400,
		"\xff":                     400,
		`{"job":{},"token":1}`:     400,
		`{"job":{"id":"7"}}`:       400,
		`{"job":null,"token":"t"}`: 400,
		`{"job":{"id":"7","queueQualifiedName":"bull:orders"}}`:                                400,
		`{"job":{"id":"7","queueQualifiedName":"bull:mails"},"token":"t"}`:                     400,
		`{"job":{"id":"7","queueQualifiedName":"bull:orders","data":"no object"},"token":"t"}`: 400,
		`{"job":{"id":"7","queueQualifiedName":"bull:orders","data":{}},"token":"t"}`:          200,
		`{"job":{"id":"7","queueQualifiedName":"my:bull:orders","data":{}},"token":"t"}`:       200,
	} {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest("POST", "/", strings.NewReader(body)))
		if answer.Code != status {
			t.Errorf("%s was answered with %d %s", body, answer.Code, answer.Body)
		}
		_, err := queue.ReadPushed(httptest.NewRequest("POST", "/", strings.NewReader(body)))
		if status == 400 {
			wantCode(t, err, "invalid_request", 400)
		}
	}
}

func TestAResultThatIsNoJSONFailsThePush(t *testing.T) {
	queue := toril.NewQueue[number, any](toril.NewClient("http://127.0.0.1:9", "x"), "orders")
	handler := queue.Handler(func(context.Context, *toril.Task[number]) (any, error) { return func() {}, nil })
	body := `{"job":{"id":"7","queueQualifiedName":"bull:orders","data":{}},"token":"t"}`
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequest("POST", "/", strings.NewReader(body)))
	equal(t, answer.Code, http.StatusInternalServerError)
	text, _ := io.ReadAll(answer.Body)
	equal(t, strings.Contains(string(text), "unsupported type"), true)
}

func TestABodyOverTheLimitIsRefusedAndFailsItsJob(t *testing.T) {
	queue, ctx := newQueue[string, string](t), within(t)
	echo := func(_ context.Context, task *toril.Task[string]) (string, error) { return task.Data, nil }
	server := httptest.NewServer(queue.HandlerWith(echo, toril.HandlerOptions{MaxBody: 5000}))
	defer server.Close()
	if err := queue.Register(ctx, toril.Endpoint{URL: server.URL, Timeout: patience}); err != nil {
		t.Fatal(err)
	}
	fits := must(queue.Add(ctx, "n", "fits", nil))(t)
	equal(t, must(queue.Wait(ctx, fits.ID))(t), "fits")
	large := must(queue.Add(ctx, "n", strings.Repeat("x", 5000), nil))(t)
	_, err := queue.Wait(ctx, large.ID)
	var failure *toril.JobFailedError
	equal(t, errors.As(err, &failure) && failure.Reason == "Request Entity Too Large", true)
	trace := must(queue.Get(ctx, large.ID))(t).Stacktrace[0]
	equal(t, strings.Contains(trace, "the body is larger than 5000 bytes"), true)
	// Without a length it is read up to the limit.
	endless := io.MultiReader(strings.NewReader(strings.Repeat("x", 5001)))
	response := must(http.Post(server.URL, "", endless))(t)
	response.Body.Close()
	equal(t, response.StatusCode, http.StatusRequestEntityTooLarge)
	if err := queue.Unregister(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestOtherMethodsThanThoseOfWorkersAreRefused(t *testing.T) {
	queue := toril.NewQueue[int, int](toril.NewClient("http://127.0.0.1:9", "secret"), "orders")
	answer := httptest.NewRecorder()
	queue.Handler(nil).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/", nil))
	equal(t, answer.Code, http.StatusMethodNotAllowed)
	equal(t, answer.Header().Get("Allow"), "POST, PUT, PATCH")
}

func TestReadPushedSaysThatABodyIsTooLarge(t *testing.T) {
	queue := toril.NewQueue[int, int](toril.NewClient("http://127.0.0.1:9", "secret"), "orders")
	request := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("too much"))
	request.Body = http.MaxBytesReader(nil, request.Body, 3)
	_, err := queue.ReadPushed(request)
	wantCode(t, err, "payload_too_large", http.StatusRequestEntityTooLarge)
}
