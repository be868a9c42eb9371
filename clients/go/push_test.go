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
