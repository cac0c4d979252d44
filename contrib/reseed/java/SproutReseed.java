import java.lang.instrument.Instrumentation;
import java.lang.reflect.Field;
import java.lang.reflect.InaccessibleObjectException;
import java.security.SecureRandom;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.atomic.AtomicLong;
import sun.misc.Signal;

/**
 * Gives an instance that was woken random numbers of its own: JAVA_TOOL_OPTIONS=-javaagent:/reseed/java/sprout-reseed.jar
 *
 * <p>All instances of a seed wake with the same memory. At the signal that a seed baked with --after-wake signal=URG sends, this agent reseeds from the kernel what
 * ThreadLocalRandom keeps for every thread and for those to come, and what Math.random draws from. SecureRandom and UUID.randomUUID ask the
 * kernel anyway. A java.util.Random that the app has made before is the app's own to reseed.
 */
public final class SproutReseed {
    private static final SecureRandom KERNEL = new SecureRandom();

    public static void premain(String options, Instrumentation instrumentation) {
        Module own = SproutReseed.class.getModule();
        instrumentation.redefineModule(Object.class.getModule(), Set.of(), Map.of(),
            Map.of("java.lang", Set.of(own), "java.util.concurrent", Set.of(own)), Set.of(), Map.of());
        Signal.handle(new Signal("URG"), signal -> reseed());
    }

    private static void reseed() {
        try {
            field(ThreadLocalRandom.class, "seeder", AtomicLong.class).set(next());
            Field seed = Thread.class.getDeclaredField("threadLocalRandomSeed");
            seed.setAccessible(true);
            for (Thread thread : Thread.getAllStackTraces().keySet()) {
                seed.setLong(thread, next());
            }
            Math.random();
            field(Class.forName("java.lang.Math$RandomNumberGeneratorHolder"), "randomNumberGenerator", Random.class).setSeed(next());
        } catch (ReflectiveOperationException | InaccessibleObjectException e) {
            System.err.println("sprout: cannot reseed: " + e);
        }
    }

    private static <T> T field(Class<?> of, String name, Class<T> type) throws ReflectiveOperationException {
        Field field = of.getDeclaredField(name);
        field.setAccessible(true);
        return type.cast(field.get(null));
    }

    private static long next() {
        byte[] bytes = KERNEL.generateSeed(Long.BYTES);
        long n = 0;
        for (byte b : bytes) {
            n = n << 8 | b & 0xff;
        }
        return n;
    }
}
