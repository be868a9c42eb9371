package toril

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

const sourceHeader = "X-Proxq-Source"

// ProxyClient sends requests to upstreams through their queues. It is safe for concurrent use.
type ProxyClient struct {
	// HTTP makes the requests.
	HTTP *http.Client
	// Header is sent with every request for a job: what shows one's own jobs where toril has ownerOnly.
	Header http.Header
	// JobsPath is toril's jobsPath.
	JobsPath string

	url string
}

// NewProxyClient makes a client of the async proxy at this URL, without the prefix of an upstream.
func NewProxyClient(url string) *ProxyClient {
	return &ProxyClient{HTTP: http.DefaultClient, JobsPath: "/__jobs", url: strings.TrimRight(url, "/")}
}

// ProxiedJob is a proxied request: queued, running, completed (the upstream answered, with any status) or failed.
type ProxiedJob struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	// Error is why it has failed.
	Error string `json:"error"`
}

// NotQueuedError says that a request went past the queue. Response is the upstream's answer, whose body is to be closed.
type NotQueuedError struct{ Response *http.Response }

func (e *NotQueuedError) Error() string { return "toril: the request went past the queue" }

// Submit sends a request to a path below an upstream's prefix into its queue, and returns its job's id. The request needs
// the whole URL: [ProxyClient.NewRequest] makes one. It is sent once: a second one would be a second job.
func (p *ProxyClient) Submit(request *http.Request) (string, error) {
	response, err := p.HTTP.Do(request)
	if err != nil {
		return "", unreachable(err)
	}
	if response.Header.Get(sourceHeader) == "" {
		return "", &NotQueuedError{response}
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		return "", proxyRefusal(response)
	}
	var accepted struct{ JobID string }
	if err := json.NewDecoder(response.Body).Decode(&accepted); err != nil {
		return "", unreachable(err)
	}
	return accepted.JobID, nil
}

// NewRequest is [http.NewRequestWithContext] for a path at this proxy.
func (p *ProxyClient) NewRequest(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	return http.NewRequestWithContext(ctx, method, p.url+path, body)
}

// Job returns a job's status; an [Error] with the status 404 says that there is none.
func (p *ProxyClient) Job(ctx context.Context, id string) (*ProxiedJob, error) {
	return p.status(ctx, id, "0")
}

// Wait waits for the end of a job for as long as the context lives.
func (p *ProxyClient) Wait(ctx context.Context, id string) (*ProxiedJob, error) {
	for {
		job, err := p.status(ctx, id, "30")
		if err != nil || job.Status == "completed" || job.Status == "failed" {
			return job, err
		}
		if err := sleep(ctx, firstPause); err != nil {
			return job, err
		}
	}
}

// Response returns the upstream's answer, whatever its status; its body is to be closed. An [Error] with the status 404
// says that there is none yet.
func (p *ProxyClient) Response(ctx context.Context, id string) (*http.Response, error) {
	response, err := p.do(ctx, http.MethodGet, id, "/content")
	if err != nil {
		return nil, err
	}
	if response.Header.Get(sourceHeader) != "" {
		defer response.Body.Close()
		return nil, proxyRefusal(response)
	}
	return response, nil
}

// Cancel cancels a job in any state and forgets it; a running attempt is aborted.
func (p *ProxyClient) Cancel(ctx context.Context, id string) error {
	response, err := p.do(ctx, http.MethodDelete, id, "")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= 400 {
		return proxyRefusal(response)
	}
	return nil
}

func (p *ProxyClient) status(ctx context.Context, id, waitS string) (*ProxiedJob, error) {
	response, err := p.do(ctx, http.MethodGet, id, "?wait="+waitS)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode >= 400 {
		return nil, proxyRefusal(response)
	}
	var job ProxiedJob
	if err := json.NewDecoder(response.Body).Decode(&job); err != nil {
		return nil, unreachable(err)
	}
	return &job, nil
}

func (p *ProxyClient) do(ctx context.Context, method, id, rest string) (*http.Response, error) {
	request, err := p.NewRequest(ctx, method, p.JobsPath+"/"+url.PathEscape(id)+rest, nil)
	if err != nil {
		return nil, err
	}
	for name, values := range p.Header {
		request.Header[name] = values
	}
	// The upstream's redirects are its answer.
	once := *p.HTTP
	once.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := once.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, unreachable(err)
	}
	return response, nil
}

func proxyRefusal(response *http.Response) *Error {
	var said struct{ Code, Message string }
	body, _ := io.ReadAll(response.Body)
	if json.Unmarshal(body, &said) != nil || said.Code == "" {
		return &Error{Code: fmt.Sprintf("http_%d", response.StatusCode), Message: string(body), Status: response.StatusCode}
	}
	return &Error{Code: strings.ToLower(said.Code), Message: said.Message, Status: response.StatusCode}
}
