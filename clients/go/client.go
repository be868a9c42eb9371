// Package toril is the Go client of toril, an HTTP gateway over BullMQ queues: add jobs, wait for results, hear events,
// and work on jobs, over a WebSocket or in a web handler that toril pushes them to.
//
//	client := toril.NewClient("http://127.0.0.1:8080", "TOKEN")
//	orders := toril.NewQueue[Order, Receipt](client, "orders")
//	job, err := orders.Add(ctx, "charge", Order{Amount: 42}, nil)
//	receipt, err := orders.Wait(ctx, job.ID)
package toril

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	tries        = 5
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
	callTimeout  = time.Minute // of one try
)

// Client talks to one toril. It is safe for concurrent use.
type Client struct {
	// HTTP makes the requests, handshakes of WebSockets included. Replace it before the first use where certificates or
	// a proxy of your own are wanted. Its Timeout is not used: contexts limit calls, and streams have no end.
	HTTP *http.Client

	url   string
	token string

	longestSilence time.Duration // of events: toril sends something every 15 s
	pingEvery      time.Duration // on a worker's socket; two in vain end it
}

// NewClient makes a client of the toril at this URL, with an API token.
func NewClient(url, token string) *Client {
	connections := http.DefaultTransport
	if standard, ok := connections.(*http.Transport); ok {
		standard = standard.Clone()
		standard.MaxIdleConnsPerHost = standard.MaxIdleConns // all of them go to one host
		connections = standard
	}
	return &Client{
		HTTP:           &http.Client{Transport: connections},
		url:            strings.TrimRight(url, "/"),
		token:          token,
		longestSilence: 45 * time.Second,
		pingEvery:      15 * time.Second,
	}
}

// Workers returns every registered endpoint's URL, by queue.
func (c *Client) Workers(ctx context.Context) (map[string]string, error) {
	return read[map[string]string](c.send(ctx, call{method: http.MethodGet, path: path("workers")}))
}

// call is one request. It is sent again when the server cannot be reached or says 503, unless once.
type call struct {
	method, path string
	query        url.Values
	body         []byte
	header       http.Header
	once         bool
	timeout      time.Duration // of one try; 0 means callTimeout
}

type answer struct {
	status int
	body   []byte
}

func (c *Client) send(ctx context.Context, call call) (answer, error) {
	for tried := 0; ; tried++ {
		got, fault := c.try(ctx, call)
		if fault == nil {
			return got, nil
		}
		if ctx.Err() != nil {
			return answer{}, ctx.Err()
		}
		passing := fault.Status == 0 || fault.Status == http.StatusServiceUnavailable
		if call.once || !passing || tried+1 >= tries {
			return answer{}, fault
		}
		if err := sleep(ctx, pause(tried)); err != nil {
			return answer{}, err
		}
	}
}

func (c *Client) try(ctx context.Context, call call) (answer, *Error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(call.timeout, callTimeout))
	defer cancel()
	address := c.url + call.path
	if call.query != nil {
		address += "?" + call.query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, call.method, address, bytes.NewReader(call.body))
	if err != nil {
		return answer{}, &Error{Code: "invalid_request", Message: err.Error(), cause: err}
	}
	request.Header = c.header()
	for name, values := range call.header {
		request.Header[name] = values
	}
	if call.body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http().Do(request)
	if err != nil {
		return answer{}, unreachable(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}, unreachable(err)
	}
	if response.StatusCode >= 400 {
		return answer{}, refusal(response, body)
	}
	return answer{response.StatusCode, body}, nil
}

func (c *Client) http() *http.Client {
	endless := *c.HTTP
	endless.Timeout = 0
	return &endless
}

func (c *Client) header() http.Header {
	return http.Header{"Authorization": {"Bearer " + c.token}}
}

func unreachable(err error) *Error {
	return &Error{Code: "unreachable", Message: "toril cannot be reached: " + err.Error(), cause: err}
}

// refusal is an answer of 400 or more as an error.
func refusal(response *http.Response, body []byte) *Error {
	var problem struct{ Code, Title, Detail string }
	if strings.HasPrefix(response.Header.Get("Content-Type"), "application/problem+json") &&
		json.Unmarshal(body, &problem) == nil && problem.Code != "" {
		message := problem.Detail
		if message == "" && problem.Code != jobFailed {
			message = problem.Title
		}
		return &Error{Code: problem.Code, Message: message, Status: response.StatusCode}
	}
	code, message := response.Header.Get("Toril-Code"), strings.TrimSpace(string(body))
	if code == "" { // something between here and toril
		code = fmt.Sprintf("http_%d", response.StatusCode)
	}
	if message == "" {
		message = response.Status
	}
	return &Error{Code: code, Message: message, Status: response.StatusCode}
}

// read decodes what send returned.
func read[V any](got answer, err error) (V, error) {
	var value V
	if err != nil {
		return value, err
	}
	if err := json.Unmarshal(got.body, &value); err != nil {
		return value, &Error{"unexpected_answer", "the answer cannot be read: " + err.Error(), got.status, err}
	}
	return value, nil
}

// encode is json.Marshal without its HTML escapes: toril keeps data byte for byte.
func encode(value any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimRight(text.Bytes(), "\n"), nil
}

func path(parts ...string) string {
	var joined strings.Builder
	for _, part := range parts {
		joined.WriteString("/" + url.PathEscape(part))
	}
	return joined.String()
}

// pause is how long to wait before the next try: 0.1 s, doubling up to 5 s, with jitter.
func pause(tried int) time.Duration {
	whole := min(firstPause<<min(tried, 10), longestPause)
	return time.Duration(float64(whole) * (0.5 + 0.5*rand.Float64()))
}

func sleep(ctx context.Context, length time.Duration) error {
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// heard calls back around every read, so that silence can be told from slowness.
type heard struct {
	io.Reader
	before, after func()
}

func (h heard) Read(into []byte) (int, error) {
	h.before()
	defer h.after()
	return h.Reader.Read(into)
}
