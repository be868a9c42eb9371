package toril

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"
)

// NewJob is a job to add in bulk.
type NewJob[T any] struct {
	Name    string
	Data    T
	Options JobOptions
}

// JobOptions are BullMQ's options of a job. The zero value is one attempt, now.
type JobOptions struct {
	// ID is BullMQ's jobId; a job whose id is there already is not added again. Without one an id is made up, unless
	// there is Deduplication.
	ID string
	// Attempts is how often the job is tried at most; 0 means once.
	Attempts int
	// Backoff is how long to wait before the next attempt; nil means not at all.
	Backoff *Backoff
	// Delay is how long to wait before the first attempt.
	Delay time.Duration
	// Priority from 1 (first) to 2097151; 0 is none, which goes before all of them.
	Priority int
	// Group is the group that the job belongs to, if any.
	Group *GroupOption
	// LIFO puts the job at the front of the queue.
	LIFO bool
	// Deduplication drops the job while another with the same id is there. Adding such a job is not repeated when the
	// server is away for a moment, as nobody could know whether it was added.
	Deduplication *Deduplication
	// RemoveOnComplete and RemoveOnFail are how many ended jobs to keep; nil leaves that to the worker's settings.
	RemoveOnComplete, RemoveOnFail *Keep
}

// Backoff is how long to wait between attempts.
type Backoff struct {
	// Type is fixed, or exponential, which doubles.
	Type string
	// Delay is the (first) wait.
	Delay time.Duration
}

// Deduplication drops jobs whose id is taken.
type Deduplication struct {
	// ID is what makes two jobs the same.
	ID string
	// TTL is how long the id is taken; 0 means until the job has ended.
	TTL time.Duration
}

// Keep is how many ended jobs to keep; its zero value is none.
type Keep struct {
	// Count is how many. 0 with an Age means any number.
	Count int
	// Age is for how long, in whole seconds; 0 means for ever.
	Age time.Duration
}

type keepJSON struct {
	Count *int  `json:"count,omitempty"`
	Age   int64 `json:"age,omitempty"`
}

func (k *Keep) wire() *keepJSON {
	if k == nil {
		return nil
	}
	kept := keepJSON{Age: atLeastOne(k.Age, time.Second)}
	if k.Count != 0 || k.Age == 0 {
		kept.Count = &k.Count
	}
	return &kept
}

// atLeastOne counts units; a time that is shorter than one is one, and only none is none.
func atLeastOne(length, unit time.Duration) int64 {
	if length > 0 && length < unit {
		return 1
	}
	return int64(length / unit)
}

type jobJSON[T any] struct {
	Name    string      `json:"name"`
	Data    T           `json:"data"`
	Options optionsJSON `json:"opts"`
}

type optionsJSON struct {
	ID               string             `json:"jobId,omitempty"`
	Attempts         int                `json:"attempts,omitempty"`
	Backoff          *backoffJSON       `json:"backoff,omitempty"`
	Delay            int64              `json:"delay,omitempty"`
	Priority         int                `json:"priority,omitempty"`
	Group            *GroupOption       `json:"group,omitempty"`
	LIFO             bool               `json:"lifo,omitempty"`
	Deduplication    *deduplicationJSON `json:"deduplication,omitempty"`
	RemoveOnComplete *keepJSON          `json:"removeOnComplete,omitempty"`
	RemoveOnFail     *keepJSON          `json:"removeOnFail,omitempty"`
}

type backoffJSON struct {
	Type  string `json:"type"`
	Delay int64  `json:"delay"`
}

type deduplicationJSON struct {
	ID  string `json:"id"`
	TTL int64  `json:"ttl,omitempty"`
}

// wire is what is posted. A deduplicated job keeps its own rules and gets no id.
func (j NewJob[T]) wire() jobJSON[T] {
	given := j.Options
	options := optionsJSON{
		ID:               given.ID,
		Attempts:         given.Attempts,
		Delay:            atLeastOne(given.Delay, time.Millisecond),
		Priority:         given.Priority,
		Group:            given.Group,
		LIFO:             given.LIFO,
		RemoveOnComplete: given.RemoveOnComplete.wire(),
		RemoveOnFail:     given.RemoveOnFail.wire(),
	}
	if given.Backoff != nil {
		options.Backoff = &backoffJSON{given.Backoff.Type, given.Backoff.Delay.Milliseconds()}
	}
	if given.Deduplication != nil {
		ttl := atLeastOne(given.Deduplication.TTL, time.Millisecond)
		options.Deduplication = &deduplicationJSON{given.Deduplication.ID, ttl}
	} else if options.ID == "" {
		options.ID = newID()
	}
	return jobJSON[T]{j.Name, j.Data, options}
}

// newID is a random UUID (version 4).
func newID() string {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		panic(err) // a system without randomness; ids that repeat would lose jobs
	}
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// Job is a job as the server tells of it. Times are Unix milliseconds: see [time.UnixMilli].
type Job[T any] struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Data T      `json:"data"`
	// Options as BullMQ spells them.
	Options json.RawMessage `json:"opts"`
	// Progress is what was reported last, 0 before that.
	Progress json.RawMessage `json:"progress"`
	// ReturnValue is null until the job has completed; [Queue.Wait] returns it typed.
	ReturnValue json.RawMessage `json:"returnvalue"`
	// FailedReason is why the last attempt failed; Stacktrace has an entry per failed attempt.
	FailedReason string   `json:"failedReason"`
	Stacktrace   []string `json:"stacktrace"`
	// AttemptsMade counts ended attempts; AttemptsStarted also those that a crash cut short.
	AttemptsMade    int   `json:"attemptsMade"`
	AttemptsStarted int   `json:"attemptsStarted"`
	StalledCounter  int   `json:"stalledCounter"`
	Priority        int   `json:"priority"`
	Delay           int64 `json:"delay"` // ms
	Timestamp       int64 `json:"timestamp"`
	ProcessedOn     int64 `json:"processedOn"` // 0 until it was taken
	FinishedOn      int64 `json:"finishedOn"`  // 0 until it has ended
	// DeduplicationID is set on jobs that were added with one.
	DeduplicationID string `json:"deduplicationId"`
	// QueueQualifiedName is BullMQ's: its prefix and the queue's name, bull:orders.
	QueueQualifiedName string `json:"queueQualifiedName"`
}
