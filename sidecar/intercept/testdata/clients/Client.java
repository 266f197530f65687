import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/**
 * For each line of its input, a URL: asks for it with a client of its own and
 * prints the status, the body and the version of HTTP.
 */
class Client {
    public static void main(String[] args) throws Exception {
        var in = new BufferedReader(new InputStreamReader(System.in));
        for (String url; (url = in.readLine()) != null;) {
            try {
                var response = HttpClient.newHttpClient().send(
                        HttpRequest.newBuilder(URI.create(url)).build(), HttpResponse.BodyHandlers.ofString());
                System.out.println(response.statusCode() + " " + response.body() + " " + response.version());
            } catch (Exception e) {
                System.out.println("failed: " + e);
            }
        }
    }
}
