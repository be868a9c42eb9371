package toril

import (
	"cmp"
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
// within the last five minutes. Else the [Error] has the code unauthorized: answer it with 401. It reads the whole body: put
// [http.MaxBytesReader] around that. A body over the limit has the code payload_too_large: answer it with 413.
func (q *Queue[T, R]) ReadPushed(request *http.Request, secrets ...string) (*Task[T], error) {
	keys, err := readSecrets(secrets)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return nil, unreadable(err)
	}
	task, fault := q.readPushed(request.Header, body, keys)
	if fault != nil {
		return nil, fault
	}
	return task, nil
}

func (q *Queue[T, R]) readPushed(header http.Header, body []byte, keys [][]byte) (*Task[T], *Error) {
	if len(keys) > 0 {
		if fault := verify(header, body, keys, time.Now()); fault != nil {
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
// of them within the last five minutes. It panics when a secret is none. A body over [MaxBody] is answered with 413.
func (q *Queue[T, R]) Handler(work Func[T, R], secrets ...string) http.Handler {
	return q.HandlerWith(work, HandlerOptions{Secrets: secrets})
}

// MaxBody is the largest request that a handler reads, where nothing else is said. toril takes jobs of up to 10 MiB by
// default; the rest is room for what it sends with a job.
const MaxBody = 16 << 20

// HandlerOptions are those of [Queue.HandlerWith].
type HandlerOptions struct {
	// Secrets (whsec_…) are those that the endpoint was registered with. Without any, every caller is taken.
	Secrets []string
	// MaxBody is how many bytes of a request are read; a larger one is answered with 413. 0 means [MaxBody].
	MaxBody int64
}

// HandlerWith is [Queue.Handler] with options. It takes POST, PUT and PATCH, and answers others with 405.
func (q *Queue[T, R]) HandlerWith(work Func[T, R], options HandlerOptions) http.Handler {
	keys, err := readSecrets(options.Secrets)
	if err != nil {
		panic(err)
	}
	limit := cmp.Or(options.MaxBody, MaxBody)
	return http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		switch request.Method {
		case http.MethodPost, http.MethodPut, http.MethodPatch:
		default:
			answer.Header().Set("Allow", "POST, PUT, PATCH")
			http.Error(answer, "jobs are pushed with POST, PUT or PATCH", http.StatusMethodNotAllowed)
			return
		}
		body, err := readBody(answer, request, limit)
		if err != nil {
			fault := unreadable(err)
			http.Error(answer, fault.Error(), fault.Status)
			return
		}
		task, fault := q.readPushed(request.Header, body, keys)
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

// readBody reads no byte of a body that says that it is too large.
func readBody(answer http.ResponseWriter, request *http.Request, limit int64) ([]byte, error) {
	if request.ContentLength > limit {
		answer.Header().Set("Connection", "close")
		return nil, &http.MaxBytesError{Limit: limit}
	}
	return io.ReadAll(http.MaxBytesReader(answer, request.Body, limit))
}

func unreadable(err error) *Error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		message := fmt.Sprintf("the body is larger than %d bytes", large.Limit)
		return &Error{"payload_too_large", message, http.StatusRequestEntityTooLarge, err}
	}
	return notPushed(err)
}
