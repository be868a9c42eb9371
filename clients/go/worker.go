package toril

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

const (
	dialTimeout = 10 * time.Second
	parting     = time.Second // for functions to return, once their jobs have been given back
	fragment    = 64 * 1024   // pings go between the pieces of large messages
)

// Func works on a job. What it returns completes the job, as JSON; an error fails the attempt (see [Unrecoverable] and
// [RetryIn]), and so does a panic. Its context ends when nobody waits for the job any more: the connection broke, the
// job took too long, or somebody else has it. [context.Cause] says which; what is returned then is dropped.
type Func[T, R any] func(ctx context.Context, task *Task[T]) (R, error)

func (f Func[T, R]) run(ctx context.Context, task *Task[T]) (result R, err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &panicked{value, debug.Stack()}
		}
	}()
	return f(ctx, task)
}

// Task is a job in the hands of a [Func], and what can be reported of it.
type Task[T any] struct {
	Job[T]
	// Token is the lock of the job.
	Token string

	report reporter
}

// reporter sends a report: progress or log.
type reporter func(ctx context.Context, kind string, value any) error

// Progress reports how far the job is, as JSON.
func (t *Task[T]) Progress(ctx context.Context, value any) error {
	return t.report(ctx, "progress", value)
}

// Log appends a line to the job's log.
func (t *Task[T]) Log(ctx context.Context, line string) error {
	return t.report(ctx, "log", line)
}

// WorkerOptions are the settings of a [Worker]. The zero value is one job at a time.
type WorkerOptions struct {
	// Concurrency is how many jobs to work on at once; 0 means one.
	Concurrency int
	// Timeout is after how long a job counts as failed; 0 means never.
	Timeout time.Duration
	// Grace is how long the jobs at hand may take when the worker is to stop; then they go back to the queue, and their
	// contexts end. 0 means as long as they like.
	Grace time.Duration
	// Logger is told of connections made and lost; nil means [slog.Default].
	Logger *slog.Logger
}

// Worker works on the jobs of a queue over a WebSocket, and connects again by itself.
type Worker struct {
	client  *Client
	address string
	options WorkerOptions
	log     *slog.Logger
	work    func(ctx context.Context, payload []byte, report reporter) reply
}

// Worker makes a worker for this queue; [Worker.Run] starts it.
func (q *Queue[T, R]) Worker(work Func[T, R], options WorkerOptions) *Worker {
	query := url.Values{"payload": {"job"}}
	if options.Timeout > 0 {
		query.Set("timeout", strconv.FormatInt(atLeastOne(options.Timeout, time.Millisecond), 10))
	}
	options.Concurrency = cmp.Or(options.Concurrency, 1)
	process := path("ws", "queues", q.name, "process", strconv.Itoa(options.Concurrency))
	return &Worker{
		client:  q.client,
		address: q.client.url + process + "?" + query.Encode(),
		options: options,
		log:     cmp.Or(options.Logger, slog.Default()).With("queue", q.name),
		work: func(ctx context.Context, payload []byte, report reporter) reply {
			task := Task[T]{report: report}
			pushed := pushedJSON[T]{Job: &task.Job, Token: &task.Token}
			if err := json.Unmarshal(payload, &pushed); err != nil {
				return failed(fmt.Errorf("the job cannot be read: %w", err))
			}
			result, err := work.run(ctx, &task)
			if err != nil {
				return failed(err)
			}
			return reply{Data: &replyData{result}}
		},
	}
}

// reply is how a job ended.
type reply struct {
	ID    int64       `json:"id"`
	Data  *replyData  `json:"data,omitempty"`
	Error *replyError `json:"err,omitempty"`
}

type replyData struct {
	Result any `json:"result"`
}

type replyError struct {
	Message       string `json:"message"`
	Stack         string `json:"stack,omitempty"`
	Unrecoverable bool   `json:"unrecoverable,omitempty"`
	RetryIn       *int64 `json:"retryIn,omitempty"`
}

func failed(err error) reply {
	told := replyError{Message: cmp.Or(err.Error(), fmt.Sprintf("%T", err))}
	var hopeless *unrecoverable
	var later *retryIn
	var crash *panicked
	switch {
	case errors.As(err, &hopeless):
		told.Unrecoverable = true
	case errors.As(err, &later):
		after := max(0, later.after.Milliseconds())
		told.RetryIn = &after
	case errors.As(err, &crash):
		told.Stack = crash.trace()
	}
	return reply{Error: &told}
}

// Run works until the context is done; then it takes no more jobs, finishes those at hand and returns nil. Grace limits
// how long that may take: [ErrGrace] says that it did not suffice. While the server is away it tries again and again,
// but a refusal for good (a wrong token, a bad queue name) is returned as an [Error].
func (w *Worker) Run(ctx context.Context) error {
	// hard ends when the jobs at hand are to be given up: not with ctx, but Grace later.
	hard, giveUp := context.WithCancelCause(context.WithoutCancel(ctx))
	defer giveUp(nil)
	if w.options.Grace > 0 {
		defer context.AfterFunc(ctx, func() {
			if sleep(hard, w.options.Grace) == nil {
				giveUp(ErrGrace)
			}
		})()
	}
	run := &run{Worker: w, slots: make(chan struct{}, max(1, w.options.Concurrency))}
	refused := run.stayConnected(ctx, hard)
	if refused != nil {
		giveUp(refused)
	}
	run.finish(hard)
	return context.Cause(hard)
}

// run is what one call of Run keeps from one connection to the next. A function that goes on though its connection broke
// keeps its slot, so there are never more than Concurrency of them.
type run struct {
	*Worker
	slots chan struct{}
	jobs  sync.WaitGroup
	// tooLarge is a size that the server does not take; 0 while none is known.
	tooLarge atomic.Int64
}

func (r *run) stayConnected(ctx, hard context.Context) error {
	for tried := 0; ctx.Err() == nil; tried++ {
		began := time.Now()
		socket, err := r.dial(ctx)
		var refused *Error
		if errors.As(err, &refused) && forGood(refused.Status) {
			return refused
		}
		if err == nil {
			r.log.Info("toril: connected")
			err = r.serve(ctx, hard, socket)
		}
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > longestPause {
			tried = 0
		}
		r.log.Warn("toril: not connected, trying again", "error", err)
		sleep(ctx, pause(tried))
	}
	return nil
}

// forGood tells the refusals that will not get better from those that may.
func forGood(status int) bool {
	return 400 <= status && status < 500 && status != http.StatusRequestTimeout && status != http.StatusTooManyRequests
}

// finish waits for the functions at work; not for long once they have been given up.
func (r *run) finish(hard context.Context) {
	done := make(chan struct{})
	go func() {
		r.jobs.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-hard.Done():
		select {
		case <-done:
		case <-time.After(parting):
		}
	}
}

// socket is one connection.
type socket struct {
	*run
	connection *websocket.Conn
	lastHeard  atomic.Int64 // Unix nanoseconds

	// alive ends with the connection, and broken ends it.
	alive  context.Context
	broken context.CancelCauseFunc

	// wanted ends when the worker is to stop, and stop tells the server so, once.
	wanted context.Context
	stop   func()

	mutex   sync.Mutex
	running map[int64]context.CancelCauseFunc
	largest int64 // of the messages sent
}

func (r *run) dial(ctx context.Context) (*socket, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	s := &socket{run: r, running: map[int64]context.CancelCauseFunc{}}
	s.hear()
	connection, response, err := websocket.Dial(ctx, r.address, &websocket.DialOptions{
		HTTPClient:     r.client.http(),
		HTTPHeader:     r.client.header(),
		OnPingReceived: func(context.Context, []byte) bool { s.hear(); return true },
		OnPongReceived: func(context.Context, []byte) { s.hear() },
	})
	if err != nil {
		if response != nil && response.StatusCode >= 400 {
			body, _ := io.ReadAll(response.Body)
			return nil, refusal(response, body)
		}
		return nil, err
	}
	connection.SetReadLimit(-1) // a job is as large as whoever added it could make it
	s.connection = connection
	return s, nil
}

func (s *socket) hear() { s.lastHeard.Store(time.Now().UnixNano()) }

// serve works until the connection ends; what is still running then is somebody else's job.
func (r *run) serve(ctx, hard context.Context, s *socket) error {
	s.alive, s.broken = context.WithCancelCause(hard)
	defer s.connection.CloseNow()
	s.wanted, s.stop = ctx, sync.OnceFunc(func() { s.write([]byte(`{"data":{"type":"stop"}}`)) })
	defer context.AfterFunc(ctx, s.stop)()
	go s.watch()
	for {
		text, err := s.read()
		if err == nil {
			err = s.take(text)
		}
		if err != nil {
			if websocket.CloseStatus(err) == websocket.StatusMessageTooBig {
				r.tooLarge.Store(s.sizeOfLargest())
			}
			s.broken(unreachable(err))
			return context.Cause(s.alive)
		}
	}
}

func (s *socket) read() ([]byte, error) {
	_, message, err := s.connection.Reader(s.alive)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(heard{message, func() {}, s.hear})
}

// watch ends a connection on which nothing is heard, not even pongs.
func (s *socket) watch() {
	for sleep(s.alive, s.client.pingEvery) == nil {
		silence := time.Since(time.Unix(0, s.lastHeard.Load()))
		if silence > 2*s.client.pingEvery {
			s.broken(unreachable(fmt.Errorf("nothing heard for %v", silence.Round(time.Millisecond))))
			return
		}
		ctx, cancel := context.WithTimeout(s.alive, s.client.pingEvery)
		s.connection.Ping(ctx) // its pong is heard, or not
		cancel()
	}
}

// take is what the server says: a job, the end of one, or that something was wrong.
func (s *socket) take(text []byte) error {
	var message struct {
		ID   *int64
		Data struct {
			Type    string
			Payload json.RawMessage
			Reason  string
		}
		Err *struct{ Message, Code string }
	}
	if err := json.Unmarshal(text, &message); err != nil {
		return fmt.Errorf("not a message of toril: %w", err)
	}
	switch {
	case message.Err != nil:
		s.log.Warn("toril: refused what the worker said", "error", message.Err.Message, "code", message.Err.Code)
	case message.ID != nil && message.Data.Type == "process":
		s.begin(*message.ID, message.Data.Payload)
	case message.ID != nil && message.Data.Type == "cancel":
		s.end(*message.ID, &Error{Code: message.Data.Reason, Message: "nobody waits for this job any more"})
	}
	return nil
}

func (s *socket) begin(number int64, payload []byte) {
	ctx, cancel := context.WithCancelCause(s.alive)
	s.mutex.Lock()
	s.running[number] = cancel
	s.mutex.Unlock()
	s.jobs.Add(1)
	go func() {
		defer s.jobs.Done()
		defer s.end(number, nil)
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		report := func(by context.Context, kind string, value any) error {
			if err := cmp.Or(by.Err(), context.Cause(ctx)); err != nil {
				return err
			}
			return s.send(map[string]any{"id": number, "data": map[string]any{kind: value}})
		}
		said := s.work(ctx, payload, report)
		<-s.slots
		said.ID = number
		if ctx.Err() != nil {
			return
		}
		if s.wanted.Err() != nil {
			s.stop() // first: an answer asks for the next job
		}
		if err := s.send(said); err != nil && ctx.Err() == nil { // it cannot be sent, which is the job's fault
			said = failed(err)
			said.ID = number
			s.send(said)
		}
	}()
}

func (s *socket) end(number int64, cause error) {
	s.mutex.Lock()
	cancel := s.running[number]
	delete(s.running, number)
	s.mutex.Unlock()
	if cancel != nil {
		cancel(cause)
	}
}

func (s *socket) send(message any) error {
	text, err := encode(message)
	if err != nil {
		return err
	}
	size := int64(len(text))
	if limit := s.tooLarge.Load(); limit > 0 && size >= limit {
		return &Error{Code: "payload_too_large", Message: fmt.Sprintf("%d bytes are more than the server takes", size)}
	}
	s.mutex.Lock()
	s.largest = max(s.largest, size)
	s.mutex.Unlock()
	return s.write(text)
}

func (s *socket) sizeOfLargest() int64 {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.largest
}

func (s *socket) write(text []byte) error {
	if len(text) <= fragment {
		return s.connection.Write(s.alive, websocket.MessageText, text)
	}
	message, err := s.connection.Writer(s.alive, websocket.MessageText)
	if err != nil {
		return err
	}
	for piece := range slices.Chunk(text, fragment) {
		if _, err := message.Write(piece); err != nil {
			return err
		}
	}
	return message.Close()
}
