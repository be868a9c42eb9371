package toril_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"toril"
)

// hear gathers so many events as text.
func hear(t *testing.T, client *toril.Client, since string, count int) []string {
	t.Helper()
	var heard []string
	for event, err := range toril.NewQueue[any, any](client, "orders").Events(within(t), since) {
		if err != nil {
			t.Fatal(err)
		}
		heard = append(heard, fmt.Sprintf("%s %s %s %s", event.ID, event.Name, event.JobID, event.Data))
		if len(heard) == count {
			break
		}
	}
	return heard
}

func wantLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("got %q, not %q", got, want)
	}
}

func TestEventsAreReadLineByLine(t *testing.T) {
	large := strings.Repeat("x", 100_000)
	client := fake(t, func(answer http.ResponseWriter, _ *http.Request) {
		io.WriteString(answer, "retry: 1000\n\n:\n\n: a beat\n\n"+
			"id: 1-0\nevent: added\ndata: {\"jobId\":\"7\"}\n\n"+
			"id:1-1\r\nevent:drained\r\ndata:{}\r\n\r\n"+
			"event: nothing\n\n"+
			"id: 1-2\nevent: completed\ndata: {\"jobId\":\"7\",\ndata: \"returnvalue\":\""+large+"\"}\n\n"+
			"id: 1-3\nevent: gap\ndata: {\"since\":\"0-1\"}\n\n")
	})
	wantLines(t, hear(t, client, "", 4),
		`1-0 added 7 {"jobId":"7"}`,
		`1-1 drained  {}`,
		`1-2 completed 7 {"jobId":"7",`+"\n"+`"returnvalue":"`+large+`"}`,
		`1-3 gap  {"since":"0-1"}`)
}

func TestEventsGoOnWhereTheyWere(t *testing.T) {
	t.Parallel()
	var asked []string
	answers := []func(http.ResponseWriter){
		func(a http.ResponseWriter) {
			io.WriteString(a, "id: 1-0\nevent: a\ndata: {}\n\nid: 2-0\nevent: half\nda")
		},
		func(a http.ResponseWriter) { a.WriteHeader(http.StatusServiceUnavailable) },
		func(a http.ResponseWriter) { panic(http.ErrAbortHandler) },
		func(a http.ResponseWriter) { a.WriteHeader(http.StatusBadGateway) },
		func(a http.ResponseWriter) { io.WriteString(a, "id: 2-0\n\n") }, // a place, and no event
		func(a http.ResponseWriter) { io.WriteString(a, "id: 3-0\nevent: b\ndata: {}\n\n") },
	}
	client := fake(t, func(answer http.ResponseWriter, request *http.Request) {
		asked = append(asked, request.Header.Get("Last-Event-ID"))
		answers[len(asked)-1](answer)
	})
	wantLines(t, hear(t, client, "0-9", 2), "1-0 a  {}", "3-0 b  {}")
	wantLines(t, asked, "0-9", "1-0", "1-0", "1-0", "1-0", "2-0")
}

func TestSilenceIsABrokenConnection(t *testing.T) {
	var connections atomic.Int32
	client := fake(t, func(answer http.ResponseWriter, request *http.Request) {
		id := connections.Add(1)
		fmt.Fprintf(answer, "id: %d-0\nevent: a\ndata: {}\n\n", id)
		answer.(http.Flusher).Flush()
		<-request.Context().Done() // not a word more
	})
	client.Hasty(100 * time.Millisecond)
	wantLines(t, hear(t, client, "", 2), "1-0 a  {}", "2-0 a  {}")
}

func TestEventsEndWithTheirContext(t *testing.T) {
	client := fake(t, func(answer http.ResponseWriter, request *http.Request) {
		answer.(http.Flusher).Flush()
		<-request.Context().Done()
	})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	turns := 0
	for _, err := range toril.NewQueue[any, any](client, "orders").Events(ctx, "") {
		turns++
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
	equal(t, turns, 1)
}
