package toril_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"toril"
)

func TestAWorkerSaysHowAJobGoesOn(t *testing.T) {
	queue, ctx := newQueue[string, any](t), within(t)
	var tried sync.Map // how often, by the job's data
	work := func(_ context.Context, task *toril.Task[string]) (any, error) {
		counted, _ := tried.LoadOrStore(task.Data, new(atomic.Int32))
		times := counted.(*atomic.Int32).Add(1)
		switch {
		case task.Data == "hopeless":
			return nil, toril.Unrecoverable(errors.New("no such card"))
		case task.Data == "later" && times == 1:
			return nil, toril.RetryIn(50*time.Millisecond, nil)
		case task.Data == "odd":
			return math.Inf(1), nil
		case task.Data == "panic":
			panic("at the disco")
		case task.Data == "mute":
			return nil, errors.New("")
		}
		return nil, nil
	}
	working(t, queue.Worker(work, toril.WorkerOptions{Logger: quiet}))
	patient := &toril.JobOptions{Attempts: 5, Backoff: &toril.Backoff{Type: "fixed", Delay: time.Minute}}
	for _, expected := range []struct{ data, reason string }{
		{"hopeless", "no such card"},
		{"later", ""},
		{"odd", "json: unsupported value: +Inf"},
		{"panic", "panic: at the disco"},
		{"mute", "*errors.errorString"},
		{"fine", ""},
	} {
		options := patient
		if expected.reason != "" && expected.data != "hopeless" {
			options = nil
		}
		job := must(queue.Add(ctx, "n", expected.data, options))(t)
		_, err := queue.Wait(ctx, job.ID)
		var failure *toril.JobFailedError
		if expected.reason == "" && err != nil {
			t.Fatalf("%s: %v", expected.data, err)
		}
		if expected.reason != "" && (!errors.As(err, &failure) || failure.Reason != expected.reason) {
			t.Fatalf("%s: %v", expected.data, err)
		}
		if expected.data == "panic" {
			trace := must(queue.Get(ctx, job.ID))(t).Stacktrace[0]
			equal(t, strings.Contains(trace, "worker_test.go:"), true)
		}
		counted, _ := tried.Load(expected.data)
		want := int32(1)
		if expected.data == "later" {
			want = 2
		}
		equal(t, counted.(*atomic.Int32).Load(), want)
	}
}

func TestDataOfAnotherTypeFailsItsJobOnly(t *testing.T) {
	client, name, ctx := live(t), queueName(), within(t)
	queue := toril.NewQueue[int, int](client, name)
	wrong := must(toril.NewQueue[string, int](client, name).Add(ctx, "n", "seven", nil))(t)
	right := must(queue.Add(ctx, "n", 7, nil))(t)
	double := func(_ context.Context, task *toril.Task[int]) (int, error) { return 2 * task.Data, nil }
	working(t, queue.Worker(double, toril.WorkerOptions{Logger: quiet}))
	_, err := queue.Wait(ctx, wrong.ID)
	if err == nil || !strings.Contains(err.Error(), "the job cannot be read") {
		t.Fatal(err)
	}
	equal(t, must(queue.Wait(ctx, right.ID))(t), 14)
}

func TestAWorkerThatIsRefusedSaysWhy(t *testing.T) {
	client, ctx := live(t), within(t)
	nothing := func(context.Context, *toril.Task[any]) (any, error) { return nil, nil }
	stranger := toril.NewClient(os.Getenv("TORIL"), "wrong")
	err := toril.NewQueue[any, any](stranger, queueName()).Worker(nothing, toril.WorkerOptions{}).Run(ctx)
	wantCode(t, err, "unauthorized", 401)
	err = toril.NewQueue[any, any](client, "ab").Worker(nothing, toril.WorkerOptions{}).Run(ctx)
	wantCode(t, err, "invalid_request", 400)
	err = newQueue[any, any](t).Worker(nothing, toril.WorkerOptions{Concurrency: -1}).Run(ctx)
	wantCode(t, err, "invalid_request", 400)
}

func TestStoppingFinishesTheJobAtHandAndTakesNoOther(t *testing.T) {
	queue, ctx := newQueue[int, string](t), within(t)
	first, second := must(queue.Add(ctx, "n", 1, nil))(t), must(queue.Add(ctx, "n", 2, nil))(t)
	begun, goOn := make(chan int), make(chan bool)
	work := func(ctx context.Context, task *toril.Task[int]) (string, error) {
		begun <- task.Data
		<-goOn
		return "done", ctx.Err()
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- queue.Worker(work, toril.WorkerOptions{Logger: quiet}).Run(running) }()
	equal(t, receive(t, begun), 1)
	stop()
	close(goOn)
	if err := receive(t, ended); err != nil {
		t.Fatal(err)
	}
	equal(t, must(queue.Wait(ctx, first.ID))(t), "done")
	equal(t, must(queue.Get(ctx, second.ID))(t).FinishedOn, 0)
	equal(t, must(queue.Counts(ctx))(t)[toril.Waiting], 1)
}

func TestAStopHasItsLimit(t *testing.T) {
	queue, ctx := newQueue[int, string](t), within(t)
	job := must(queue.Add(ctx, "n", 1, nil))(t)
	begun := make(chan bool)
	causes := make(chan error, 1)
	work := func(ctx context.Context, _ *toril.Task[int]) (string, error) {
		close(begun)
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return "late", nil
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	worker := queue.Worker(work, toril.WorkerOptions{Grace: 50 * time.Millisecond, Logger: quiet})
	go func() { ended <- worker.Run(running) }()
	receive(t, begun)
	stop()
	equal(t, errors.Is(receive(t, ended), toril.ErrGrace), true)
	equal(t, errors.Is(receive(t, causes), toril.ErrGrace), true)
	// The job is there for somebody else, with no attempt spent.
	again := func(_ context.Context, task *toril.Task[int]) (string, error) {
		return "again", task.Log(ctx, "attempt "+string(rune('0'+task.AttemptsMade)))
	}
	working(t, queue.Worker(again, toril.WorkerOptions{Logger: quiet}))
	equal(t, must(queue.Wait(ctx, job.ID))(t), "again")
	equal(t, must(queue.Logs(ctx, job.ID))(t)[0], "attempt 0")
}

func TestAJobThatTakesTooLongIsCalledOff(t *testing.T) {
	queue, ctx := newQueue[int, string](t), within(t)
	causes := make(chan error, 1)
	work := func(ctx context.Context, task *toril.Task[int]) (string, error) {
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return "", task.Log(context.Background(), "too late")
	}
	working(t, queue.Worker(work, toril.WorkerOptions{Timeout: 50 * time.Millisecond, Logger: quiet}))
	job := must(queue.Add(ctx, "n", 1, nil))(t)
	_, err := queue.Wait(ctx, job.ID)
	var failure *toril.JobFailedError
	equal(t, errors.As(err, &failure) && failure.Reason == "Timeout", true)
	wantCode(t, receive(t, causes), "timeout", 0)
	equal(t, len(must(queue.Logs(ctx, job.ID))(t)), 0)
}

func TestLargeJobsAndResults(t *testing.T) {
	t.Parallel()
	queue, ctx := newQueue[string, string](t), within(t)
	echo := func(_ context.Context, task *toril.Task[string]) (string, error) { return task.Data + "!", nil }
	working(t, queue.Worker(echo, toril.WorkerOptions{Logger: quiet}))
	large := strings.Repeat("x", 4<<20)
	job := must(queue.Add(ctx, "n", large, nil))(t)
	equal(t, must(queue.Wait(ctx, job.ID))(t) == large+"!", true)
}

// toril closes the socket of a worker that sends too much. The job must not come back for ever.
func TestAResultThatIsTooLargeFailsItsJob(t *testing.T) {
	t.Parallel()
	queue, ctx := newQueue[int, string](t), within(t)
	work := func(_ context.Context, task *toril.Task[int]) (string, error) {
		return strings.Repeat("x", task.Data), nil
	}
	working(t, queue.Worker(work, toril.WorkerOptions{Logger: quiet}))
	huge, small := must(queue.Add(ctx, "n", 11<<20, nil))(t), must(queue.Add(ctx, "n", 1<<20, nil))(t)
	_, err := queue.Wait(ctx, huge.ID)
	if err == nil || !strings.Contains(err.Error(), "bytes are more than the server takes (payload_too_large)") {
		t.Fatal(err)
	}
	equal(t, len(must(queue.Wait(ctx, small.ID))(t)), 1<<20)
}

func TestABrokenConnectionCancelsItsJobsAndIsMadeAgain(t *testing.T) {
	direct, ctx := live(t), within(t)
	name := queueName()
	// A relay of our own, so that the connection can be cut in the middle.
	var relay relay
	server := httptest.NewServer(&relay)
	defer server.Close()
	queue := toril.NewQueue[int, string](direct, name)
	begun, causes := make(chan bool, 2), make(chan error, 1)
	var times, running, most atomic.Int32
	work := func(ctx context.Context, _ *toril.Task[int]) (string, error) {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		begun <- true
		if times.Add(1) == 1 {
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return "of the first", nil
		}
		return "of the second", nil
	}
	worker := toril.NewQueue[int, string](toril.NewClient(server.URL, os.Getenv("TOKEN")), name).
		Worker(work, toril.WorkerOptions{Logger: quiet})
	working(t, worker)
	job := must(queue.Add(ctx, "n", 1, nil))(t)
	receive(t, begun)
	relay.cut()
	wantCode(t, receive(t, causes), "unreachable", 0)
	equal(t, must(queue.Wait(ctx, job.ID))(t), "of the second")
	equal(t, most.Load(), 1)
}

// relay passes the messages of WebSockets on to the real toril.
type relay struct {
	mutex sync.Mutex
	open  []*websocket.Conn
}

func (r *relay) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	ctx := request.Context()
	near, err := websocket.Accept(answer, request, nil)
	if err != nil {
		return
	}
	defer near.CloseNow()
	far, _, err := websocket.Dial(ctx, os.Getenv("TORIL")+request.URL.RequestURI(), &websocket.DialOptions{
		HTTPHeader: http.Header{"Authorization": request.Header["Authorization"]},
	})
	if err != nil {
		return
	}
	defer far.CloseNow()
	r.mutex.Lock()
	r.open = append(r.open, near, far)
	r.mutex.Unlock()
	done := make(chan error, 2)
	go func() { done <- pass(ctx, near, far) }()
	go func() { done <- pass(ctx, far, near) }()
	if code := websocket.CloseStatus(<-done); code != -1 {
		near.Close(code, "")
	}
}

func (r *relay) cut() {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for _, connection := range r.open {
		connection.CloseNow()
	}
	r.open = nil
}

func pass(ctx context.Context, from, to *websocket.Conn) error {
	for {
		kind, text, err := from.Read(ctx)
		if err == nil {
			err = to.Write(ctx, kind, text)
		}
		if err != nil {
			return err
		}
	}
}

// played is a client of a WebSocket server that the test plays; it is told how many connections there were before.
func played(t *testing.T, serve func(ctx context.Context, before int32, socket *websocket.Conn)) *toril.Client {
	var connections atomic.Int32
	return fake(t, func(answer http.ResponseWriter, request *http.Request) {
		socket, err := websocket.Accept(answer, request, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer socket.CloseNow()
		serve(request.Context(), connections.Add(1)-1, socket)
	})
}

func TestADeadConnectionIsNoticed(t *testing.T) {
	t.Parallel()
	released := make(chan bool)
	again := make(chan bool)
	client := played(t, func(ctx context.Context, before int32, socket *websocket.Conn) {
		if before == 0 {
			<-released // reads nothing, so answers no ping: as if a cable were cut
			return
		}
		if before == 1 {
			close(again)
		}
		socket.Read(ctx)
		socket.Close(websocket.StatusNormalClosure, "stopped")
	})
	defer close(released)
	client.Hasty(100 * time.Millisecond)
	worker := toril.NewQueue[int, int](client, "orders").Worker(nil, toril.WorkerOptions{Logger: quiet})
	end := working(t, worker)
	receive(t, again)
	end()
}

func TestAnIdleConnectionThatAnswersPingsLives(t *testing.T) {
	t.Parallel()
	enough := make(chan bool)
	lived := sync.OnceFunc(func() { close(enough) })
	client := fake(t, func(answer http.ResponseWriter, request *http.Request) {
		var pings atomic.Int32 // of one connection, which ends after two whose pongs are not heard
		socket, err := websocket.Accept(answer, request, &websocket.AcceptOptions{
			OnPingReceived: func(context.Context, []byte) bool {
				if pings.Add(1) == 4 {
					lived()
				}
				return true
			},
		})
		if err != nil {
			t.Error(err)
			return
		}
		defer socket.CloseNow()
		socket.Read(request.Context())
		socket.Close(websocket.StatusNormalClosure, "stopped")
	})
	client.Hasty(time.Second)
	end := working(t, toril.NewQueue[int, int](client, "orders").Worker(nil, toril.WorkerOptions{Logger: quiet}))
	receive(t, enough)
	end()
}

func TestAWorkerWaitsForAServerThatIsAway(t *testing.T) {
	var asked atomic.Int32
	arrived := make(chan string, 1)
	client := fake(t, func(answer http.ResponseWriter, request *http.Request) {
		switch asked.Add(1) {
		case 1:
			answer.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			panic(http.ErrAbortHandler)
		default:
			socket, _ := websocket.Accept(answer, request, nil)
			defer socket.CloseNow()
			arrived <- request.URL.RequestURI() + " " + request.Header.Get("Authorization")
			socket.Write(request.Context(), websocket.MessageText, []byte(
				`{"id":1,"data":{"type":"process","payload":{"job":{"id":"7","data":8},"token":"t"}}}`,
			))
			for range 2 {
				_, text, _ := socket.Read(request.Context())
				arrived <- string(text)
			}
			socket.Close(websocket.StatusNormalClosure, "stopped")
		}
	})
	double := func(_ context.Context, task *toril.Task[int]) (int, error) { return 2 * task.Data, nil }
	end := working(t, toril.NewQueue[int, int](client, "a/b").Worker(double, toril.WorkerOptions{
		Concurrency: 3, Timeout: time.Microsecond, Logger: quiet,
	}))
	equal(t, receive(t, arrived), "/ws/queues/a%2Fb/process/3?payload=job&timeout=1 Bearer secret")
	equal(t, receive(t, arrived), `{"id":1,"data":{"result":16}}`)
	end()
	equal(t, receive(t, arrived), `{"data":{"type":"stop"}}`)
}

// A function that goes on though its job was taken away holds up its own slot, and no more than that.
func TestAFunctionThatDoesNotHeedItsContextKeepsItsSlot(t *testing.T) {
	job := `{"id":%,"data":{"type":"process","payload":{"job":{"id":"7","data":%},"token":"t"}}}`
	send := func(ctx context.Context, socket *websocket.Conn, number string) {
		socket.Write(ctx, websocket.MessageText, []byte(strings.ReplaceAll(job, "%", number)))
	}
	replies, goOn := make(chan string, 3), make(chan bool)
	release := sync.OnceFunc(func() { close(goOn) })
	client := played(t, func(ctx context.Context, before int32, socket *websocket.Conn) {
		if before == 0 {
			send(ctx, socket, "1")
			return // cut
		}
		send(ctx, socket, "2")
		send(ctx, socket, "3")
		for range 3 {
			_, text, _ := socket.Read(ctx)
			replies <- string(text)
			release()
		}
		socket.Close(websocket.StatusNormalClosure, "stopped")
	})
	var most, running atomic.Int32
	work := func(ctx context.Context, task *toril.Task[int]) (int, error) {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		if task.Data == 1 {
			<-goOn
		}
		return task.Data, nil
	}
	end := working(t, toril.NewQueue[int, int](client, "orders").Worker(work, toril.WorkerOptions{
		Concurrency: 2, Logger: quiet,
	}))
	got := map[float64]bool{}
	for range 2 {
		var reply struct {
			ID   float64
			Data struct{ Result float64 }
		}
		if err := json.Unmarshal([]byte(receive(t, replies)), &reply); err != nil {
			t.Fatal(err)
		}
		equal(t, reply.Data.Result, reply.ID)
		got[reply.ID] = true
	}
	equal(t, got[2] && got[3], true)
	end()
	equal(t, most.Load() <= 2, true)
}

func TestStoppingWhileTheServerIsAwayEndsAtOnce(t *testing.T) {
	asked := make(chan bool, 1)
	client := fake(t, func(answer http.ResponseWriter, _ *http.Request) {
		answer.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(answer, "shutting down")
		select {
		case asked <- true:
		default:
		}
	})
	end := working(t, toril.NewQueue[int, int](client, "orders").Worker(nil, toril.WorkerOptions{Logger: quiet}))
	receive(t, asked)
	end()
}
