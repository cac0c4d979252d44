import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;

/** An HTTP server with a thread pool, that makes garbage; the answer is how many requests there were. */
public class Server {
    static volatile byte[][] garbage = new byte[64][];

    public static void main(String[] args) throws Exception {
        AtomicInteger count = new AtomicInteger();
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 8080), 50);
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.createContext("/", exchange -> {
            int n = count.incrementAndGet();
            for (int i = 0; i < 200; i++) garbage[i % 64] = new byte[16384];
            byte[] body = Integer.toString(n).getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
        System.out.println("ready");
    }
}
