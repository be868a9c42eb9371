package toril

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// pushedJSON is a job with its lock, as a socket and an endpoint get it.
type pushedJSON[T any] struct {
	Job   *Job[T] `json:"job"`
	Token *string `json:"token"`
}

// ReadPushed reads a request in which toril pushes a job of this queue. The task's reports go to toril by HTTP, with the
// job's lock token, and are taken while the job is in flight. An [Error] with the code invalid_request says that the
// request holds no such job: answer it with 400.
//
// Given the secrets (whsec_…) that the endpoint was registered with, it takes only what toril signed with one of them
// within the last five minutes. Else the [Error] has the code unauthorized: answer it with 401.
func (q *Queue[T, R]) ReadPushed(request *http.Request, secrets ...string) (*Task[T], error) {
	keys, err := readSecrets(secrets)
	if err != nil {
		return nil, err
	}
	task, fault := q.readPushed(request, keys)
	if fault != nil {
		return nil, fault
	}
	return task, nil
}

func (q *Queue[T, R]) readPushed(request *http.Request, keys [][]byte) (*Task[T], *Error) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return nil, notPushed(err)
	}
	if len(keys) > 0 {
		if fault := verify(request.Header, body, keys, time.Now()); fault != nil {
			return nil, fault
		}
	}
	var task Task[T]
	pushed := pushedJSON[T]{Job: &task.Job, Token: &task.Token}
	if err := json.Unmarshal(body, &pushed); err != nil {
		return nil, notPushed(err)
	}
	if task.ID == "" || task.Token == "" {
		return nil, notPushed(errors.New("it has no id or no token"))
	}
	// A queue's name has no colon, but the prefix before it may.
	if of := task.QueueQualifiedName; of[strings.LastIndex(of, ":")+1:] != q.name {
		return nil, notPushed(fmt.Errorf("it is a job of %q, not of %s", of, q.name))
	}
	reporter := *q.client
	reporter.token = task.Token
	task.report = func(ctx context.Context, kind string, value any) error {
		body, err := encode(value)
		if err != nil {
			return err
		}
		report := call{method: http.MethodPost, path: q.path("jobs", task.ID, kind), body: body}
		if kind == "log" {
			report.path = q.path("jobs", task.ID, "logs")
			report.once = true // the line could be there twice
		}
		_, err = reporter.send(ctx, report)
		return err
	}
	return &task, nil
}

func notPushed(err error) *Error {
	return &Error{"invalid_request", "the request holds no pushed job: " + err.Error(), http.StatusBadRequest, err}
}

// Handler is a web handler to which toril pushes the jobs of this queue, once it is registered ([Queue.Register]). What
// the function returns completes the job, but [Later] keeps it, to be settled when it is done. Any other error fails the
// attempt: it is answered with 500, whose reason phrase, "Internal Server Error", becomes the failedReason: net/http writes
// no other. The error's text is the answer's body, and stands in the job's stack trace. [RetryIn] is said in the answer;
// [Unrecoverable] is told to the client's toril, and its text is the failedReason.
//
// Given the secrets (whsec_…) that the endpoint was registered with, it answers with 401 what toril did not sign with one
// of them within the last five minutes. It panics when a secret is none.
func (q *Queue[T, R]) Handler(work Func[T, R], secrets ...string) http.Handler {
	keys, err := readSecrets(secrets)
	if err != nil {
		panic(err)
	}
	return http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		task, fault := q.readPushed(request, keys)
		if fault != nil {
			http.Error(answer, fault.Error(), fault.Status)
			return
		}
		result, err := work.run(request.Context(), task)
		if err == nil {
			var body []byte
			if body, err = encode(result); err == nil {
				answer.Header().Set("Content-Type", "application/json")
				answer.Write(body)
				return
			}
		}
		q.answerError(answer, request, task, err)
	})
}
