package toril_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"toril"
)

type number struct {
	N int `json:"n"`
}

type square struct {
	Square int `json:"square"`
}

// 500 jobs over a socket, ten at a time, with progress, a failing one, events with a resume in the middle, and results
// waited for.
func TestTheWholeJourney(t *testing.T) {
	queue, ctx := newQueue[number, square](t), within(t)
	var running, most atomic.Int32
	var full sync.Once
	together := make(chan struct{})
	work := func(ctx context.Context, task *toril.Task[number]) (square, error) {
		now := running.Add(1)
		defer running.Add(-1)
		for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
		}
		if now == 10 {
			full.Do(func() { close(together) })
		}
		select { // The first ten wait for one another, so that seeing ten at once does not hang on speed.
		case <-together:
		case <-ctx.Done():
			return square{}, ctx.Err()
		}
		if err := errors.Join(
			task.Progress(ctx, map[string]int{"percent": 50}),
			task.Log(ctx, "squaring "+task.Name),
		); err != nil {
			return square{}, err
		}
		if task.Data.N == 13 {
			return square{}, errors.New("unlucky")
		}
		return square{task.Data.N * task.Data.N}, nil
	}

	var listening sync.WaitGroup
	listening.Add(1)
	seen := map[string]int{}
	ids := map[string]bool{}
	connections := 0
	go func() {
		defer listening.Done()
		for since := "0"; since != ""; connections++ {
			since = listen(ctx, t, queue, since, seen, ids)
		}
	}()

	wanted := make([]toril.NewJob[number], 500)
	for n := range wanted {
		wanted[n] = toril.NewJob[number]{Name: "square", Data: number{n}}
	}
	jobs := must(queue.AddBulk(ctx, wanted))(t)
	working(t, queue.Worker(work, toril.WorkerOptions{Concurrency: 10, Logger: quiet}))
	for n, job := range jobs {
		result, err := queue.Wait(ctx, job.ID)
		if n != 13 {
			if err != nil || result.Square != n*n {
				t.Fatalf("job %d: %v, %v", n, result, err)
			}
			continue
		}
		var failure *toril.JobFailedError
		if !errors.As(err, &failure) || failure.Reason != "unlucky" || failure.ID != job.ID {
			t.Fatalf("got %v", err)
		}
		wantCode(t, err, "job_failed", 422)
	}
	listening.Wait()
	equal(t, most.Load(), 10)
	equal(t, seen["completed"], 499)
	equal(t, seen["failed"], 1)
	equal(t, seen["progress"], 500)
	equal(t, seen["gap"], 0)
	equal(t, connections > 3, true)
	unlucky := must(queue.Get(ctx, jobs[13].ID))(t)
	equal(t, unlucky.FailedReason, "unlucky")
	equal(t, strings.Contains(unlucky.Stacktrace[0], "unlucky"), true)
	equal(t, string(must(queue.Get(ctx, jobs[7].ID))(t).Progress), `{"percent":50}`)
	equal(t, strings.Join(must(queue.Logs(ctx, jobs[7].ID))(t), "|"), "squaring square")
	equal(t, must(queue.Counts(ctx))(t)[toril.Completed], 499)
}

// listen counts events, and hangs up after 500 of them: it returns where to go on, or nothing when all have ended.
func listen(
	ctx context.Context, t *testing.T, queue *toril.Queue[number, square], since string,
	seen map[string]int, ids map[string]bool,
) string {
	heard := 0
	for event, err := range queue.Events(ctx, since) {
		if err != nil {
			t.Error(err)
			return ""
		}
		if ids[event.ID] {
			t.Errorf("event %s came twice", event.ID)
		}
		ids[event.ID] = true
		seen[event.Name]++
		if seen["completed"]+seen["failed"] == 500 {
			return ""
		}
		if heard++; heard == 500 {
			return event.ID
		}
	}
	return ""
}
