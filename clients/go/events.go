package toril

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"
)

// Event is something that happened to a queue or a job.
type Event struct {
	// ID is where to resume from.
	ID string
	// Name is BullMQ's: added, waiting, active, progress, completed, failed … A gap says that events before it are lost.
	Name string
	// JobID is whose event it is; empty where it is the queue's.
	JobID string
	// Data has all fields, as JSON.
	Data json.RawMessage
}

// Events is what happens to the queue, from now on, or from behind the event with the id since; "0" is the oldest that
// BullMQ still has. It connects again by itself, and goes on where it was. It ends with an error: the context's, or an
// [Error] when the server refuses for good.
func (q *Queue[T, R]) Events(ctx context.Context, since string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		stream := stream{last: since}
		for tried := 0; ; tried++ {
			began := time.Now()
			wanted, err := q.listen(ctx, &stream, func(event Event) bool {
				tried = 0
				return yield(event, nil)
			})
			if !wanted {
				return
			}
			if time.Since(began) > longestPause {
				tried = 0
			}
			if err == nil {
				err = sleep(ctx, pause(tried))
			}
			if err != nil {
				yield(Event{}, err)
				return
			}
		}
	}
}

// listen is one connection. It returns whether more is wanted, and the error that forbids it.
func (q *Queue[T, R]) listen(ctx context.Context, stream *stream, give func(Event) bool) (bool, error) {
	ctx, hangUp := context.WithCancel(ctx)
	defer hangUp()
	// Silence counts only while somebody listens: the caller may take long over an event.
	silence := time.AfterFunc(q.client.longestSilence, hangUp)
	defer silence.Stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, q.client.url+q.path("events"), nil)
	if err != nil {
		return true, &Error{Code: "invalid_request", Message: err.Error(), cause: err}
	}
	request.Header = q.client.header()
	if stream.last != "" {
		request.Header.Set("Last-Event-ID", stream.last)
	}
	response, err := q.client.http().Do(request)
	if err != nil {
		return true, nil
	}
	defer response.Body.Close()
	if forGood(response.StatusCode) {
		body, _ := io.ReadAll(response.Body)
		return true, refusal(response, body)
	}
	if response.StatusCode != http.StatusOK {
		return true, nil
	}
	body := heard{response.Body, func() { silence.Reset(q.client.longestSilence) }, func() { silence.Stop() }}
	for stream.open(body); ; {
		event, err := stream.next()
		if err != nil {
			return true, nil
		}
		if !give(event) {
			return false, nil
		}
	}
}

// stream puts the lines of Server-Sent Events together, and remembers where to resume.
type stream struct {
	last  string
	lines *bufio.Reader
}

func (s *stream) open(body io.Reader) { s.lines = bufio.NewReader(body) }

// next is the next whole event. Lines end in LF or CRLF; a CR alone, which the standard allows too, toril does not send.
func (s *stream) next() (Event, error) {
	var data []string
	name := "message"
	id := s.last
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil { // what is not whole by now comes again
			return Event{}, err
		}
		line = strings.TrimRight(line, "\r\n")
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			s.last = id
			if data != nil {
				return event(id, name, strings.Join(data, "\n"))
			}
			name = "message"
		case field == "data":
			data = append(data, value)
		case field == "event":
			name = value
		case field == "id":
			id = value
		}
	}
}

func event(id, name, data string) (Event, error) {
	var fields struct{ JobID string }
	if !json.Valid([]byte(data)) {
		return Event{}, fmt.Errorf("event %s is no JSON", id)
	}
	_ = json.Unmarshal([]byte(data), &fields) // one without the field, or with another kind of it, is the queue's
	return Event{id, name, fields.JobID, json.RawMessage(data)}, nil
}
